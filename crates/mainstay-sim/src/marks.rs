//! Branches that must have happened over the seeds: a simulation that never meets a case proves nothing about it.

/// A case that was met.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mark {
    /// A standby took over from a dead primary.
    FailedOver,
    /// A primary was killed because it was silent.
    FencedSilent,
    /// Orphaned backends acknowledged a write after their postmaster had died.
    OrphanAcknowledged,
    /// The recorded primary was started in place.
    RecoveredInPlace,
    /// The old primary was cloned from the new one.
    Rejoined,
    /// The old primary was rewound to the new one.
    Rewound,
    /// Another standby was led to the new primary.
    Repointed,
    /// Commits stopped waiting for a lost standby.
    Unblocked,
    /// A control plane found a failover that another had begun.
    FailoverTakenUp,
    /// A control plane ended between the effect of a step and its knowledge of it.
    CrashedAfterEffect,
    /// The member that was to take over died before it had.
    PromotedDied,
    /// A look came in that was older than the present start.
    StaleLook,
    /// A look was lost.
    LostLook,
    /// A step failed.
    StepFailed,
    /// An instance waited out its back-off.
    BackedOff,
    /// An instance was suspended and admitted again.
    Readmitted,
    /// A frozen process was thawed before it was given up.
    Thawed,
    /// Silence was waited out because of pressure.
    Pressed,
    /// keep's list was unknown for a while.
    KeepUnknown,
    /// A member took writes although the record names another.
    RoguePrimary,
    /// A run of a schedule ended well.
    RunEnded,
    /// A run of a schedule took too long and was ended.
    RunTimedOut,
    /// A time of a schedule was passed over because a run lasted.
    RunSkipped,
    /// A control plane found a run on disk that another had not started, or not learned the end of.
    RunTakenUp,
    /// A switchover or failover that a person asked for was done.
    ErrandDone,
    /// What a person asked for was given up.
    ErrandGivenUp,
    /// A standby was restarted because a person asked.
    Restarted,
    /// A former primary followed the new one without a clone.
    FollowedAsItWas,
    /// A primary made place for another because it met damaged pages.
    DamagedLeft,
    /// A member with damaged pages was cloned anew.
    Mended,
    /// The stack ended in order.
    Finished,
}

impl Mark {
    /// All of them.
    pub const ALL: [Self; 31] = [
        Self::FailedOver,
        Self::FencedSilent,
        Self::OrphanAcknowledged,
        Self::RecoveredInPlace,
        Self::Rejoined,
        Self::Rewound,
        Self::Repointed,
        Self::Unblocked,
        Self::FailoverTakenUp,
        Self::CrashedAfterEffect,
        Self::PromotedDied,
        Self::StaleLook,
        Self::LostLook,
        Self::StepFailed,
        Self::BackedOff,
        Self::Readmitted,
        Self::Thawed,
        Self::Pressed,
        Self::KeepUnknown,
        Self::RoguePrimary,
        Self::RunEnded,
        Self::RunTimedOut,
        Self::RunSkipped,
        Self::RunTakenUp,
        Self::ErrandDone,
        Self::ErrandGivenUp,
        Self::Restarted,
        Self::FollowedAsItWas,
        Self::DamagedLeft,
        Self::Mended,
        Self::Finished,
    ];
}
