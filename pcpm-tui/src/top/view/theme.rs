//! How things look: colours by meaning for every theme and terminal, and the signs that say the same without colour.

use pcpm_api::types::SlotState;
use ratatui::style::{Color, Modifier, Style};

use crate::top::num::{float, index, whole};

/// A set of colours.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    clap::ValueEnum,
    serde::Deserialize,
    serde::Serialize,
)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ThemeName {
    /// For a dark background.
    #[default]
    Dark,
    /// For a light background.
    Light,
    /// Without colours.
    Mono,
    /// Colours that everybody can tell apart.
    Safe,
}

impl ThemeName {
    const ALL: [Self; 4] = [Self::Dark, Self::Light, Self::Mono, Self::Safe];

    pub(crate) fn next(self) -> Self {
        Self::ALL[(self as usize + 1) % Self::ALL.len()]
    }

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Dark => "dark",
            Self::Light => "light",
            Self::Mono => "mono",
            Self::Safe => "safe",
        }
    }
}

/// How many colours the terminal has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Depth {
    None,
    Sixteen,
    Indexed,
    True,
}

/// What something means, or how much it matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Text,
    /// What explains.
    Dim,
    /// Borders and axes.
    Faint,
    Title,
    Accent,
    Good,
    Warning,
    Bad,
    State(SlotState),
    /// One of several lines in a chart.
    Line(usize),
}

/// The look of everything.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Theme {
    pub(crate) name: ThemeName,
    pub(crate) depth: Depth,
    /// Only signs that every font has.
    pub(crate) ascii: bool,
}

/// A colour as terminals of many and of few colours show it.
type Ink = (u32, Color);

impl Theme {
    pub(crate) fn style(self, role: Role) -> Style {
        if self.is_plain() {
            return plain(role);
        }
        let style = match self.ink(role) {
            Some(ink) => Style::new().fg(self.colour(ink)),
            // The terminal's own, also over what has another.
            None => Style::new().fg(Color::Reset),
        };
        match role {
            Role::Title | Role::Bad => style.add_modifier(Modifier::BOLD),
            _ => style,
        }
    }

    /// The row that is selected.
    pub(crate) fn selected(self) -> Style {
        if self.is_plain() || self.depth == Depth::Sixteen {
            return Style::new().add_modifier(Modifier::REVERSED);
        }
        let background = match self.name {
            ThemeName::Light => 0xd0_e3_f0,
            _ => 0x2a_3a_4a,
        };
        Style::new().bg(self.colour((background, Color::Blue)))
    }

    /// Whether colours say nothing.
    pub(crate) fn is_plain(self) -> bool {
        self.name == ThemeName::Mono || self.depth == Depth::None
    }

    /// Whether areas are told apart by their pattern.
    pub(crate) fn has_patterns(self) -> bool {
        self.is_plain() || self.ascii || self.name == ThemeName::Safe
    }

    /// How much there is of something, from 0 to 1: a sign, and its style.
    pub(crate) fn heat(self, share: f64) -> (char, Style) {
        let levels = if self.ascii {
            [' ', '.', ':', '+', '*', '#']
        } else {
            [' ', '░', '░', '▒', '▓', '█']
        };
        if share <= 0.0 {
            return (' ', Style::new());
        }
        let last = levels.len() - 1;
        let level = 1 + index(share * (float(last as u64) - 1.0));
        let sign = levels[level.min(last)];
        if self.is_plain() {
            return (sign, Style::new());
        }
        match self.depth {
            Depth::True | Depth::Indexed => {
                let sign = if self.ascii { sign } else { '█' };
                (
                    sign,
                    Style::new().fg(self.colour((ramp(self.name, share), Color::Cyan))),
                )
            }
            _ => (sign, self.style(Role::Accent)),
        }
    }

    /// What stands for a state beside its word.
    pub(crate) const fn sign(self, state: SlotState) -> char {
        match (self.ascii, state) {
            (false, SlotState::Ready) => '●',
            (false, SlotState::Kept) => '◈',
            (false, SlotState::Attached) => '◆',
            (false, SlotState::Creating) => '◔',
            (false, SlotState::Retiring) => '◌',
            (_, SlotState::Failed) if self.ascii => 'X',
            (_, SlotState::Failed) => '✗',
            (false, SlotState::Vacant) => '·',
            (true, SlotState::Ready) => 'o',
            (true, SlotState::Kept) => '@',
            (true, SlotState::Attached) => '#',
            (true, SlotState::Creating) => '+',
            (true, SlotState::Retiring) => '-',
            (true, SlotState::Vacant) => '.',
        }
    }

    /// What an area of a state is filled with.
    pub(crate) const fn pattern(self, state: SlotState) -> char {
        match (self.ascii, state) {
            (true, state) => self.sign(state),
            (false, SlotState::Ready) => '█',
            (false, SlotState::Kept) => '▚',
            (false, SlotState::Attached) => '▓',
            (false, SlotState::Creating) => '▒',
            (false, SlotState::Retiring) => '░',
            (false, SlotState::Failed) => '╳',
            (false, SlotState::Vacant) => ' ',
        }
    }

    fn ink(self, role: Role) -> Option<Ink> {
        let (light, safe) = (self.name == ThemeName::Light, self.name == ThemeName::Safe);
        let pick =
            |dark: u32, bright: u32, few: Color| Some((if light { bright } else { dark }, few));
        match role {
            Role::Text | Role::Title => None,
            Role::Dim => pick(0x94_9c_a4, 0x5f_66_6d, Color::Gray),
            Role::Faint => pick(0x5c_65_6e, 0xa0_a8_b0, Color::DarkGray),
            Role::Accent => pick(0x7f_c8_f8, 0x00_60_a8, Color::Cyan),
            Role::Good if safe => pick(0x00_9e_73, 0x00_9e_73, Color::Green),
            Role::Good => pick(0x5f_d7_a7, 0x00_80_50, Color::Green),
            Role::Warning => pick(0xff_c7_5f, 0x9a_62_00, Color::Yellow),
            Role::Bad if safe => pick(0xd5_5e_00, 0xd5_5e_00, Color::Red),
            Role::Bad => pick(0xff_6b_6b, 0xc0_20_20, Color::Red),
            Role::State(state) if safe => Some(safe_state(state)),
            Role::State(state) => match state {
                SlotState::Ready => pick(0x4f_c3_94, 0x2e_9e_6e, Color::Green),
                SlotState::Kept => pick(0x3a_a8_b8, 0x1e_88_98, Color::Cyan),
                SlotState::Attached => pick(0x4f_9d_e8, 0x2f_78_c4, Color::Blue),
                SlotState::Creating => pick(0xf0_c0_5a, 0xc0_8a_1e, Color::Yellow),
                SlotState::Retiring => pick(0xa8_87_d0, 0x84_5f_b4, Color::Magenta),
                SlotState::Failed => pick(0xff_5f_5f, 0xd0_30_30, Color::Red),
                SlotState::Vacant => pick(0x50_58_60, 0xb4_ba_c0, Color::DarkGray),
            },
            Role::Line(line) => {
                let lines = [
                    (0x7f_c8_f8, 0x00_60_a8, Color::Cyan),
                    (0x5f_d7_a7, 0x00_80_50, Color::Green),
                    (0xff_c7_5f, 0x9a_62_00, Color::Yellow),
                    (0xff_6b_6b, 0xc0_20_20, Color::Red),
                ];
                let (dark, bright, few) = lines[line % lines.len()];
                pick(dark, bright, few)
            }
        }
    }

    fn colour(self, (rgb, few): Ink) -> Color {
        let [_, red, green, blue] = rgb.to_be_bytes();
        match self.depth {
            Depth::True => Color::Rgb(red, green, blue),
            Depth::Indexed => Color::Indexed(indexed(red, green, blue)),
            Depth::Sixteen => few,
            Depth::None => Color::Reset,
        }
    }
}

/// The colours of Okabe and Ito, which people of every kind of colour vision tell apart.
const fn safe_state(state: SlotState) -> Ink {
    match state {
        SlotState::Ready => (0x00_9e_73, Color::Green),
        SlotState::Kept => (0x00_72_b2, Color::Cyan),
        SlotState::Attached => (0x56_b4_e9, Color::Blue),
        SlotState::Creating => (0xf0_e4_42, Color::Yellow),
        SlotState::Retiring => (0xcc_79_a7, Color::Magenta),
        SlotState::Failed => (0xd5_5e_00, Color::Red),
        SlotState::Vacant => (0x60_60_60, Color::DarkGray),
    }
}

/// Without colours what matters is bold and what does not is faint.
fn plain(role: Role) -> Style {
    match role {
        Role::Title | Role::Bad | Role::Warning => Style::new().add_modifier(Modifier::BOLD),
        Role::Dim | Role::Faint => Style::new().add_modifier(Modifier::DIM),
        _ => Style::new(),
    }
}

/// From little to much, as even to the eye as a few stops allow.
fn ramp(theme: ThemeName, share: f64) -> u32 {
    const DARK: [u32; 5] = [0x1f_3a_5f, 0x24_6b_8e, 0x2a_a1_98, 0x8f_c9_5f, 0xfd_e7_25];
    const LIGHT: [u32; 5] = [0xd6_e6_f4, 0x9e_c9_e2, 0x4a_97_c9, 0x1b_64_ab, 0x08_2f_6b];
    let stops = if theme == ThemeName::Light {
        LIGHT
    } else {
        DARK
    };
    let place = share.clamp(0.0, 1.0) * float(stops.len() as u64 - 1);
    let below = index(place.floor()).min(stops.len() - 2);
    let part = place - float(below as u64);
    let mix = |shift: u32| {
        let channel = |stop: usize| f64::from((stops[stop] >> shift) & 0xff);
        let mixed = channel(below) + (channel(below + 1) - channel(below)) * part;
        (u32::try_from(whole(mixed)).unwrap_or(0xff) & 0xff) << shift
    };
    mix(16) | mix(8) | mix(0)
}

/// The nearest of the 6 x 6 x 6 colours, or of the greys, that terminals with 256 colours have.
fn indexed(red: u8, green: u8, blue: u8) -> u8 {
    const STEPS: [i32; 6] = [0, 95, 135, 175, 215, 255];
    let nearest = |channel: u8| -> (u8, i32) {
        let distance = |step: &(u8, i32)| (step.1 - i32::from(channel)).abs();
        let steps = (0..).zip(STEPS);
        steps.min_by_key(distance).unwrap_or_default()
    };
    let cube = [red, green, blue].map(nearest);
    let grey = (0..24).map(|step| (step, 8 + 10 * i32::from(step)));
    let far = |rgb: [i32; 3]| -> i32 {
        let channels = [red, green, blue].into_iter().zip(rgb);
        channels
            .map(|(channel, other)| (i32::from(channel) - other).pow(2))
            .sum()
    };
    let best_grey = grey
        .min_by_key(|(_, level)| far([*level; 3]))
        .unwrap_or_default();
    if far([best_grey.1; 3]) < far(cube.map(|(_, level)| level)) {
        return 232 + best_grey.0;
    }
    16 + 36 * cube[0].0 + 6 * cube[1].0 + cube[2].0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_become_the_nearest_of_256() {
        for (rgb, index) in [
            ((255, 0, 0), 196),
            ((0, 0, 0), 16),
            ((128, 128, 128), 244),
            ((95, 215, 167), 79),
        ] {
            let (red, green, blue) = rgb;
            assert_eq!(indexed(red, green, blue), index, "{rgb:?}");
        }
    }

    #[test]
    fn no_two_states_have_the_same_sign_or_pattern() {
        for ascii in [false, true] {
            let theme = Theme {
                name: ThemeName::Mono,
                depth: Depth::None,
                ascii,
            };
            for of in [Theme::sign, Theme::pattern] {
                let signs: std::collections::BTreeSet<_> = SlotState::ALL
                    .iter()
                    .map(|&state| of(theme, state))
                    .collect();
                assert_eq!(signs.len(), SlotState::ALL.len());
            }
        }
    }

    #[test]
    fn without_colours_there_are_none() {
        let theme = Theme {
            name: ThemeName::Dark,
            depth: Depth::None,
            ascii: false,
        };
        for role in [
            Role::Text,
            Role::Bad,
            Role::Good,
            Role::State(SlotState::Ready),
            Role::Line(2),
        ] {
            let style = theme.style(role);
            assert_eq!((style.fg, style.bg), (None, None), "{role:?}");
        }
    }
}
