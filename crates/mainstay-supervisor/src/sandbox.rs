//! Whether a child's user can come to its folder, and the private view that lets it when a parent is closed.

use std::ffi::CString;
use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::protocol::User;
use crate::sys::{Shown, View};

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
    closed_parent_within(Path::new("/"), path, user)
}

/// The outermost of the parents of `path`, from `within` on, that `user` cannot pass.
fn closed_parent_within(within: &Path, path: &Path, user: &User) -> io::Result<Option<PathBuf>> {
    let mut parents: Vec<&Path> = path.ancestors().skip(1).take_while(|parent| parent.starts_with(within)).collect();
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

fn cannot(path: &Path, error: &io::Error) -> String {
    format!("cannot look at {}: {error}", path.display())
}

fn real(path: &Path) -> Result<PathBuf, String> {
    path.canonicalize().map_err(|error| cannot(path, &error))
}

/// What a child's user must be able to come to.
#[derive(Clone, Copy)]
pub(crate) struct Places<'a> {
    /// Its working directory.
    pub(crate) dir: &'a Path,
    /// What is shown with it; `None`: `dir` alone.
    pub(crate) project: Option<&'a Path>,
    /// Folders besides, wherever they lie.
    pub(crate) shown: &'a [PathBuf],
}

/// The view in which `user` can work: `None` when no closed folder lies in its way.
///
/// **Errors**: for people: what is missing or closed, and the next step.
pub(crate) fn view(places: Places<'_>, user: &User) -> Result<Option<View>, String> {
    let mut wanted = places.shown.iter().map(|folder| real(folder)).collect::<Result<Vec<_>, _>>()?;
    wanted.extend(project_to_show(places, user)?);
    // The outer ones first: what lies in one that is shown is shown with it.
    wanted.sort();
    wanted.dedup();
    let (mut shown, mut folders, mut all_blocked) = (Vec::new(), Vec::<PathBuf>::new(), Vec::<PathBuf>::new());
    for folder in wanted {
        let within = folders.iter().rfind(|other| folder.starts_with(other)).map_or(Path::new("/"), PathBuf::as_path);
        let blocked = closed_parent_within(within, &folder, user).map_err(|error| cannot(&folder, &error))?;
        let Some(blocked) = blocked else { continue };
        let mut parents: Vec<&Path> =
            folder.ancestors().take_while(|path| path.starts_with(&blocked) && *path != blocked).collect();
        parents.reverse();
        let is_new = !all_blocked.contains(&blocked);
        shown.push(Shown {
            blocked: is_new.then(|| c_string(&blocked)).transpose()?,
            parents: parents.into_iter().map(c_string).collect::<Result<_, _>>()?,
            folder: c_string(&folder)?,
        });
        all_blocked.push(blocked);
        folders.push(folder);
    }
    Ok((!shown.is_empty()).then_some(View { shown }))
}

/// The project, when a closed folder lies above the working directory.
fn project_to_show(places: Places<'_>, user: &User) -> Result<Option<PathBuf>, String> {
    let dir = real(places.dir)?;
    let project = places.project.map_or_else(|| Ok(dir.clone()), real)?;
    let Some(blocked) = closed_parent(&dir, user).map_err(|error| cannot(&dir, &error))? else {
        let metadata = std::fs::metadata(&dir).map_err(|error| cannot(&dir, &error))?;
        return if allows(&metadata, user, EXECUTE) { Ok(None) } else { Err(closed(&dir, user)) };
    };
    // Only what lies above the project is replaced; a closed folder inside of it is the owner's decision.
    if !dir.starts_with(&project) || project == blocked || !project.starts_with(&blocked) {
        return Err(closed(&blocked, user));
    }
    for inside in dir.ancestors().take_while(|path| path.starts_with(&project)) {
        let metadata = std::fs::metadata(inside).map_err(|error| cannot(inside, &error))?;
        if !allows(&metadata, user, EXECUTE | READ) {
            return Err(closed(inside, user));
        }
    }
    Ok(Some(project))
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
    let path_of = |folder: &CString| Path::new(std::ffi::OsStr::from_bytes(folder.as_bytes())).to_owned();
    let is_shown = view.is_some_and(|view| view.shown.iter().any(|one| program.starts_with(path_of(&one.folder))));
    !is_shown && closed_parent(program, user).is_ok_and(|closed| closed.is_some())
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
    use std::ffi::CStr;

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
        let places = Places { dir: &project.join("src"), project: Some(&project), shown: &[] };
        let view = view(places, &STRANGER).expect("possible").expect("needed");
        let home = home.path().canonicalize().expect("path");
        let [shown] = view.shown.as_slice() else { panic!("{view:?}") };
        assert_eq!(shown.blocked.as_deref().map(CStr::to_bytes), Some(home.as_os_str().as_bytes()));
        assert_eq!(shown.parents.len(), 2);
        let program = home.join("bin/tool");
        assert!(needs_open_file(&program, &STRANGER, Some(&view)));
        assert!(!needs_open_file(&project.join("run"), &STRANGER, Some(&view)));
    }

    #[test]
    fn an_open_folder_needs_no_view_and_a_closed_project_is_refused_with_the_next_step() {
        let places = |dir| Places { dir, project: None, shown: &[] };
        assert!(view(places(Path::new("/usr/bin")), &STRANGER).expect("open").is_none());
        let (_home, project) = closed_home();
        std::fs::set_permissions(&project, PermissionsExt::from_mode(0o700)).expect("mode");
        let text = view(places(&project), &STRANGER).expect_err("closed");
        assert!(text.contains("move the project"), "{text}");
    }

    /// What a view hides, and what it shows there.
    fn picture(view: &View) -> Vec<(Option<&Path>, &Path)> {
        fn of(text: &CStr) -> &Path {
            Path::new(std::ffi::OsStr::from_bytes(text.to_bytes()))
        }
        view.shown.iter().map(|one| (one.blocked.as_deref().map(of), of(&one.folder))).collect()
    }

    /// The edge reads a site and writes into its state; a service has a home there. Either may lie in a closed folder.
    #[test]
    fn a_view_shows_the_project_and_folders_of_the_state_wherever_they_lie() {
        let (closed, project) = closed_home();
        let closed = closed.path().canonicalize().expect("path");
        let folder = |path: &str| {
            let path = closed.join(path);
            std::fs::create_dir_all(&path).expect("folder");
            path
        };
        let (own, releases, files) = (folder("s/edge"), folder("s/releases"), folder("s/releases/v2/files"));
        let (own, releases) = ([own], [releases]);
        let shows = |dir: &Path, project: Option<&Path>, shown: &[PathBuf]| {
            let view = view(Places { dir, project, shown }, &STRANGER).expect("possible").expect("needed");
            let picture = picture(&view).into_iter();
            picture.map(|(blocked, shown)| (blocked.map(Path::to_owned), shown.to_owned())).collect::<Vec<_>>()
        };
        let first = |path: &Path| (Some(closed.clone()), path.to_owned());
        let next = |path: &Path| (None, path.to_owned());
        assert_eq!(shows(Path::new("/usr"), None, &own), [first(&own[0])], "the project lies in the open");
        assert_eq!(shows(&project, None, &own), [first(&own[0]), next(&project)], "side by side");
        assert_eq!(shows(&own[0], None, &own), [first(&own[0])]);
        assert_eq!(shows(&files, Some(&files), &releases), [first(&releases[0])], "one lies in the other");
        let (_other, elsewhere) = closed_home();
        let picture = shows(&elsewhere, None, &own);
        assert_eq!(picture.iter().filter(|(blocked, _)| blocked.is_some()).count(), 2, "{picture:?}");
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
