//! What the user can want. Keys, the mouse and the footer all speak of these.

/// A view of the dashboard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub(crate) enum View {
    Overview,
    Slots,
    Locks,
    Latency,
    Tenants,
    Events,
}

impl View {
    pub(crate) const ALL: [Self; 6] = [
        Self::Overview,
        Self::Slots,
        Self::Locks,
        Self::Latency,
        Self::Tenants,
        Self::Events,
    ];

    pub(crate) const fn title(self) -> &'static str {
        match self {
            Self::Overview => "Overview",
            Self::Slots => "Slots",
            Self::Locks => "Locks",
            Self::Latency => "Latency",
            Self::Tenants => "Tenants",
            Self::Events => "Events",
        }
    }

    /// The one `steps` further on, round and round.
    pub(crate) fn after(self, steps: usize) -> Self {
        Self::ALL[(self as usize + steps) % Self::ALL.len()]
    }
}

/// What the user wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Show(View),
    NextView,
    PreviousView,
    Pause,
    /// Earlier and later in the past.
    Back,
    Forward,
    ZoomIn,
    ZoomOut,
    Up,
    Down,
    PageUp,
    PageDown,
    First,
    Last,
    /// A row of the table, by its place on the screen.
    Select(usize),
    /// The lock whose waits are drawn, by its place on the screen.
    Lock(usize),
    NextLock,
    PreviousLock,
    Open,
    Close,
    SortNext,
    SortPrevious,
    /// By a column; once more, the other way round.
    Sort(usize),
    SortReverse,
    Filter,
    ClearFilter,
    Compare,
    Detach,
    Retire,
    Drain,
    Resize,
    ExportJson,
    ExportCsv,
    Slower,
    Faster,
    Theme,
    Mouse,
    Help,
    Redraw,
    Suspend,
    Quit,
}
