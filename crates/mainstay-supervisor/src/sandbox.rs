//! Whether a child's user can come to its folder, and the private view that lets it when a parent is closed.

use std::ffi::CString;
use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::protocol::User;
use crate::sys::View;

const READ: u32 = 4;
const EXECUTE: u32 = 1;

/// Whether mode bits give `user` all of `wanted`. Access lists are not looked at: they only ever widen what
/// is refused here wrongly, and then a view is made that was not needed.
fn allows(metadata: &Metadata, user: &User, wanted: u32) -> bool {
    let shift = if metadata.uid() == user.uid {
        6
    } else if metadata.gid() == user.gid {
        3
    } else {
        0
    };
    user.uid == 0 || metadata.permissions().mode() >> shift & wanted == wanted
}

/// The outermost parent of `path` that `user` cannot pass.
fn closed_parent(path: &Path, user: &User) -> io::Result<Option<PathBuf>> {
    let mut parents: Vec<&Path> = path.ancestors().skip(1).collect();
    parents.reverse();
    for parent in parents {
        if !allows(&std::fs::metadata(parent)?, user, EXECUTE) {
            return Ok(Some(parent.to_owned()));
        }
    }
    Ok(None)
}

fn c_string(path: &Path) -> Result<CString, String> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| format!("{} holds a zero byte", path.display()))
}

/// The view in which `user` can work in `dir`: `None` when it can already.
///
/// **Errors**: for people: what is missing or closed, and the next step.
pub(crate) fn view(dir: &Path, project: Option<&Path>, user: &User) -> Result<Option<View>, String> {
    let cannot = |path: &Path, error: io::Error| format!("cannot look at {}: {error}", path.display());
    let dir = dir.canonicalize().map_err(|error| cannot(dir, error))?;
    let project = project.map_or_else(|| Ok(dir.clone()), |path| path.canonicalize().map_err(|e| cannot(path, e)))?;
    let Some(blocked) = closed_parent(&dir, user).map_err(|error| cannot(&dir, error))? else {
        let metadata = std::fs::metadata(&dir).map_err(|error| cannot(&dir, error))?;
        return if allows(&metadata, user, EXECUTE) { Ok(None) } else { Err(closed(&dir, user)) };
    };
    // Only what lies above the project is replaced; a closed folder inside of it is the owner's decision.
    if !dir.starts_with(&project) || project == blocked || !project.starts_with(&blocked) {
        return Err(closed(&blocked, user));
    }
    for inside in dir.ancestors().take_while(|path| path.starts_with(&project)) {
        let metadata = std::fs::metadata(inside).map_err(|error| cannot(inside, error))?;
        if !allows(&metadata, user, EXECUTE | READ) {
            return Err(closed(inside, user));
        }
    }
    let mut folders: Vec<&Path> =
        project.ancestors().take_while(|path| path.starts_with(&blocked) && *path != blocked).collect();
    folders.reverse();
    Ok(Some(View {
        blocked: c_string(&blocked)?,
        folders: folders.into_iter().map(c_string).collect::<Result<_, _>>()?,
        project: c_string(&project)?,
    }))
}

fn closed(path: &Path, user: &User) -> String {
    format!(
        "user {} cannot enter {}: move the project to a folder that others may enter, or run mainstay as the user who owns it",
        user.uid,
        path.display()
    )
}

/// Whether `user` must be given `program` as an open file: the path is closed to it, the file is not.
pub(crate) fn needs_open_file(program: &Path, user: &User, view: Option<&View>) -> bool {
    let is_hidden = view.is_some_and(|view| {
        let blocked = Path::new(std::ffi::OsStr::from_bytes(view.blocked.as_bytes()));
        let project = Path::new(std::ffi::OsStr::from_bytes(view.project.as_bytes()));
        program.starts_with(blocked) && !program.starts_with(project)
    });
    is_hidden || (view.is_none() && closed_parent(program, user).is_ok_and(|closed| closed.is_some()))
}

/// Whether `user` can run `program`. A native one is given to it as an open file if need be; a script is read by its
/// interpreter, who is not helped by that.
pub(crate) fn can_run(program: &Path, user: &User, view: Option<&View>) -> bool {
    !needs_open_file(program, user, view) || is_native(program)
}

/// Whether a file is a native program (which can be executed by descriptor; a script cannot).
pub(crate) fn is_elf(file: &OwnedFd) -> bool {
    let mut magic = [0; 4];
    file.try_clone().map(File::from).and_then(|mut file| file.read_exact(&mut magic)).is_ok() && magic == *b"\x7fELF"
}

fn is_native(program: &Path) -> bool {
    File::open(program).is_ok_and(|file| is_elf(&file.into()))
}

/// Why a program is closed to `user`: where it really lies, and the folder above it that the user cannot pass.
pub(crate) fn closed_program(program: &Path, user: &User) -> Option<(PathBuf, PathBuf)> {
    let real = program.canonicalize().ok()?;
    let closed = closed_parent(&real, user).ok()??;
    Some((real, closed))
}

/// The folder that keeps services from running a program, when they run as users of their own: it lies outside of
/// `project`, and they cannot be given it as an open file.
pub fn closed_to_services(program: &Path, project: &Path) -> Option<PathBuf> {
    // Nobody's: what its owner and its group may is of no use to a service.
    let stranger = User { uid: u32::MAX - 1, gid: u32::MAX - 1 };
    let (real, closed) = closed_program(program, &stranger)?;
    let is_of_project = |path: &Path| project.canonicalize().is_ok_and(|project| path.starts_with(project));
    let is_given = !is_of_project(program) && is_native(program);
    // With an access list it may be open to services after all.
    let has_list = rustix::fs::getxattr(&closed, "system.posix_acl_access", &mut [0_u8; 0]).is_ok_and(|size| size > 0);
    (!is_of_project(&real) && !is_given && !has_list).then_some(closed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn closed_home() -> (tempfile::TempDir, PathBuf) {
        let home = tempfile::tempdir().expect("folder");
        std::fs::set_permissions(home.path(), PermissionsExt::from_mode(0o700)).expect("mode");
        let project = home.path().canonicalize().expect("path").join("work/app");
        std::fs::create_dir_all(project.join("src")).expect("folders");
        for folder in [&project, &project.join("src")] {
            std::fs::set_permissions(folder, PermissionsExt::from_mode(0o755)).expect("mode");
        }
        (home, project)
    }

    const STRANGER: User = User { uid: 61_200, gid: 61_200 };

    #[test]
    fn a_closed_home_becomes_a_view_with_the_project_alone() {
        let (home, project) = closed_home();
        let view = view(&project.join("src"), Some(&project), &STRANGER).expect("possible").expect("needed");
        let home = home.path().canonicalize().expect("path");
        assert_eq!(view.blocked.as_bytes(), home.as_os_str().as_bytes());
        assert_eq!(view.folders.len(), 2);
        let program = home.join("bin/tool");
        assert!(needs_open_file(&program, &STRANGER, Some(&view)));
        assert!(!needs_open_file(&project.join("run"), &STRANGER, Some(&view)));
    }

    #[test]
    fn an_open_folder_needs_no_view_and_a_closed_project_is_refused_with_the_next_step() {
        assert!(view(Path::new("/usr/bin"), None, &STRANGER).expect("open").is_none());
        let (_home, project) = closed_home();
        std::fs::set_permissions(&project, PermissionsExt::from_mode(0o700)).expect("mode");
        let text = view(&project, None, &STRANGER).expect_err("closed");
        assert!(text.contains("move the project"), "{text}");
    }

    fn program(folder: &Path, name: &str, text: &[u8]) -> PathBuf {
        std::fs::create_dir_all(folder).expect("folder");
        std::fs::write(folder.join(name), text).expect("writes");
        std::fs::set_permissions(folder.join(name), PermissionsExt::from_mode(0o755)).expect("mode");
        folder.join(name)
    }

    #[test]
    fn what_services_cannot_run_is_told_with_the_folder_that_is_closed() {
        let (home, project) = closed_home();
        let closed = home.path().canonicalize().expect("path");
        let script = program(&home.path().join("bin"), "script", b"#!/bin/sh\n");
        let native = program(&home.path().join("bin"), "native", b"\x7fELF");
        assert_eq!(closed_to_services(&script, &project), Some(closed.clone()));
        assert_eq!(closed_to_services(&native, &project), None, "it is given as an open file");
        assert_eq!(closed_to_services(&program(&project, "run", b"#!/bin/sh\n"), &project), None);
        // As an environment for Python, made by one in a closed home, has it.
        std::os::unix::fs::symlink(&native, project.join("python")).expect("link");
        assert_eq!(closed_to_services(&project.join("python"), &project), Some(closed));
        assert_eq!(closed_to_services(Path::new("/bin/sh"), &project), None);
    }
}
