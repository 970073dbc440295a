//! System V segments: who is attached to one, and removal of one that a dead process left. PostgreSQL's own next start
//! in the same directory would do that; a directory that is replaced has no next start, and one whose lock file is
//! taken away does not know it.
#![expect(unsafe_code, reason = "shmctl has no safe interface")]

use std::io;

/// What the kernel says of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// By which its makers find it; printed unsigned by some and signed by others.
    pub key: i32,
    /// How many processes have it mapped.
    pub attached: u64,
}

/// The segment with this id; `None`: there is none, or none that this process may see.
///
/// One call, however many segments there are: the kernel's list of them all takes longer with each.
///
/// **Errors**: the kernel's, that it may not be looked at among them.
pub fn state(id: i32) -> io::Result<Option<Segment>> {
    let Some(state) = stat(id)? else { return Ok(None) };
    Ok(Some(Segment { key: state.shm_perm.__key, attached: state.shm_nattch }))
}

fn stat(id: i32) -> io::Result<Option<libc::shmid_ds>> {
    // SAFETY: all zeros is a value of a struct of integers; the kernel fills it and keeps no pointer to it.
    let mut state: libc::shmid_ds = unsafe { std::mem::zeroed() };
    // SAFETY: `state` is a shmid_ds of this function, written to by the call alone.
    if unsafe { libc::shmctl(id, libc::IPC_STAT, &raw mut state) } == 0 {
        return Ok(Some(state));
    }
    gone(io::Error::last_os_error()).map(|_| None)
}

/// Removes the segment with this id, if it is owned by `uid` and nobody is attached to it. Answers whether it did.
/// Who may name it has proof that whoever made it is dead.
///
/// **Errors**: the kernel's; a segment that is gone is none.
pub fn remove_unused(id: i32, uid: u32) -> io::Result<bool> {
    let Some(state) = stat(id)? else { return Ok(false) };
    if state.shm_nattch != 0 || state.shm_perm.uid != uid {
        return Ok(false);
    }
    // SAFETY: IPC_RMID takes no pointer. An id holds a counter of its slot: it is not given to another segment soon.
    if unsafe { libc::shmctl(id, libc::IPC_RMID, std::ptr::null_mut()) } != 0 {
        return gone(io::Error::last_os_error());
    }
    Ok(true)
}

fn gone(error: io::Error) -> io::Result<bool> {
    match error.raw_os_error() {
        Some(libc::EINVAL | libc::EIDRM) => Ok(false),
        _ => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment() -> i32 {
        // SAFETY: makes a private segment of one page.
        let id = unsafe { libc::shmget(libc::IPC_PRIVATE, 4096, 0o600) };
        assert!(id >= 0, "{}", io::Error::last_os_error());
        id
    }

    #[test]
    fn only_a_segment_of_that_owner_to_which_nobody_is_attached_is_removed() {
        let (id, me) = (segment(), rustix::process::geteuid().as_raw());
        // SAFETY: attached at an address of the kernel's choice, never read or written.
        let at = unsafe { libc::shmat(id, std::ptr::null(), 0) };
        assert_eq!(state(id).expect("looks").map(|it| it.attached), Some(1));
        assert!(!remove_unused(id, me).expect("looks"), "somebody is attached");
        // SAFETY: what shmat gave.
        assert_eq!(unsafe { libc::shmdt(at) }, 0);
        assert!(!remove_unused(id, me + 1).expect("looks"), "another's");
        assert!(remove_unused(id, me).expect("removes"));
        assert!(!remove_unused(id, me).expect("looks"), "it is gone");
        assert_eq!(state(id).expect("looks"), None);
    }
}
