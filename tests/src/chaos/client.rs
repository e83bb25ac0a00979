//! A client that attaches and detaches one owner, and remembers what it was told.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};

use crate::random::Random;
use crate::wire::{Refusal, Wire};

/// What a client knows of its attachment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Told {
    /// It has the one with this id.
    Attached(String),
    /// It has none.
    Detached,
    /// The daemon died before it said.
    Nothing,
}

#[derive(Debug)]
pub(super) struct Client {
    pub(super) owner: String,
    pub(super) told: Told,
    pub(super) attaches: u64,
    pub(super) detaches: u64,
    pub(super) unanswered: u64,
    /// One in three publishes a port of its own.
    port: Option<u32>,
    random: Random,
}

impl Client {
    pub(super) fn new(number: u32, seed: u64) -> Self {
        Self {
            owner: format!("client-{number}"),
            told: Told::Detached,
            attaches: 0,
            detaches: 0,
            unanswered: 0,
            port: number.is_multiple_of(3).then_some(20_000 + number),
            random: Random::new(seed),
        }
    }

    /// Attaches and detaches until the daemon does not answer any more.
    pub(super) fn work(&mut self, socket: &Path, over: &AtomicBool) {
        while !over.load(Ordering::Relaxed) {
            let Ok(mut wire) = Wire::connect(socket) else {
                return;
            };
            for _ in 0..=self.random.below(20) {
                if self.step(&mut wire).is_none() {
                    return;
                }
            }
        }
    }

    /// One call; `None` when it was not answered.
    fn step(&mut self, wire: &mut Wire) -> Option<()> {
        let attached = matches!(self.told, Told::Attached(_));
        // A retry of what was answered changes nothing.
        if attached && self.random.below(4) > 0 {
            self.detach(wire)
        } else {
            self.attach(wire)
        }
    }

    fn attach(&mut self, wire: &mut Wire) -> Option<()> {
        let publish: Vec<_> = self.port.iter().map(|port| format!("{port}:80")).collect();
        let request = json!({
            "owner": self.owner, "tenant": "chaos", "publish": publish, "on_empty": "fail",
        });
        match self.call(wire, "Attach", &request)? {
            Ok(reply) => {
                self.attaches += 1;
                self.told = Told::Attached(reply["id"].as_str().unwrap_or_default().to_owned());
            }
            // The pool is empty: what it had before it still has.
            Err(_refusal) => {}
        }
        Some(())
    }

    fn detach(&mut self, wire: &mut Wire) -> Option<()> {
        let request = json!({"owner": self.owner});
        if self.call(wire, "Detach", &request)?.is_ok() {
            self.detaches += 1;
            self.told = Told::Detached;
        }
        Some(())
    }

    fn call(
        &mut self,
        wire: &mut Wire,
        method: &str,
        parameters: &Value,
    ) -> Option<Result<Value, Refusal>> {
        match wire.try_call(method, parameters) {
            Ok(answer) => Some(answer),
            Err(_died) => {
                self.unanswered += 1;
                // A retry of an attach that is there already has no other outcome.
                let retried = method == "Attach" && matches!(self.told, Told::Attached(_));
                if !retried {
                    self.told = Told::Nothing;
                }
                None
            }
        }
    }
}
