//! The rules and limits of an attachment: what was asked for, over what its class says for all of its own.

use std::rc::Rc;

use pcpm_api::{error::PoolError, options::Options, types::DefaultPolicy};
use serde::{Deserialize, Serialize};

use super::Holder;

/// Rules and limits that count for an attachment, or those that a class gives to each.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Terms {
    /// Without ports.
    #[serde(default, skip_serializing_if = "Options::is_empty")]
    pub options: Options,
    /// Whether the world is open where no rule says, if that is not as for all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub world: Option<DefaultPolicy>,
}

impl Terms {
    /// Those of a class, if it has any of its own.
    pub fn of_class(template: Options, world: Option<DefaultPolicy>) -> Option<Rc<Self>> {
        let terms = Self {
            options: template,
            world,
        };
        (terms != Self::default()).then(|| Rc::new(terms))
    }

    /// What counts where somebody asks for `options` beside these.
    ///
    /// # Errors
    /// They cannot be had together, however good each is alone.
    pub fn with(self: &Rc<Self>, options: &Options) -> Result<Rc<Self>, PoolError> {
        if !options.has_settings() {
            return Ok(self.clone());
        }
        Ok(Rc::new(Self {
            options: options.over(&self.options)?,
            world: self.world,
        }))
    }
}

impl Holder {
    /// The rules and limits that count; ports are those that were asked for.
    pub fn in_force(&self) -> &Options {
        let terms = self.terms.as_ref();
        terms.map_or(&self.options, |terms| &terms.options)
    }

    /// Whether the world is open to it where no rule says, if that is not as for all.
    pub fn world(&self) -> Option<DefaultPolicy> {
        self.terms.as_ref().and_then(|terms| terms.world)
    }

    /// Whether the datapath has to know more of it than that it is there.
    pub fn has_settings(&self) -> bool {
        self.in_force().has_settings() || self.world().is_some()
    }
}
