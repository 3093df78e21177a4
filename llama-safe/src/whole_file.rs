//! Files that are written whole or not at all.
#![forbid(unsafe_code)]

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicU64, Ordering};

/// Writes a file, or leaves what was there: into a new file beside it, onto the disk, and only then to its name.
///
/// What was there keeps its content until the last step. A symbolic link is replaced, not followed.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let (mut file, temporary) = create_beside(path)?;
    let written = file.write_all(bytes).and_then(|()| file.sync_all());
    drop(file);
    if let Err(error) = written.and_then(|()| fs::rename(&temporary, path)) {
        // There is nothing to be done about a file that cannot be removed either.
        let _ = fs::remove_file(&temporary);
        return Err(error);
    }
    sync_folder(path);
    Ok(())
}

/// [`write`], by a function that is given the path to write to.
pub(crate) fn write_by<E>(
    path: &Path,
    failed: impl Fn(io::Error) -> E,
    write: impl FnOnce(&Path) -> Result<(), E>,
) -> Result<(), E> {
    let (_, temporary) = create_beside(path).map_err(&failed)?;
    let named = write(&temporary).and_then(|()| {
        // Some systems sync only what is open for writing.
        let synced = OpenOptions::new().write(true).open(&temporary).and_then(|file| file.sync_all());
        synced.and_then(|()| fs::rename(&temporary, path)).map_err(&failed)
    });
    match named {
        Ok(()) => sync_folder(path),
        // There is nothing to be done about a file that cannot be removed either.
        Err(_) => drop(fs::remove_file(&temporary)),
    }
    named
}

/// A new file in the folder of `path`.
fn create_beside(path: &Path) -> io::Result<(File, PathBuf)> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    if path.file_name().is_none() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the path names no file"));
    }
    loop {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        // Not made from the file's name, which may be as long as names can be.
        let temporary = path.with_file_name(format!("unfinished-{}-{number}.tmp", process::id()));
        match OpenOptions::new().write(true).create_new(true).open(&temporary) {
            Ok(file) => return Ok((file, temporary)),
            // Left by a process of the same number that was killed.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
}

/// Makes the new name last. Not every file system can be asked; the content is on the disk already.
fn sync_folder(path: &Path) {
    if cfg!(unix) {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let _ = File::open(folder).and_then(|folder| folder.sync_all());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An empty folder, deleted afterwards.
    fn in_folder(name: &str, test: impl FnOnce(&Path)) {
        let folder = std::env::temp_dir().join(format!("whole-file-{}-{name}", process::id()));
        fs::create_dir_all(&folder).unwrap();
        test(&folder);
        fs::remove_dir_all(&folder).unwrap();
    }

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn a_file_is_replaced_and_nothing_is_left_beside_it() {
        in_folder("replace", |folder| {
            let path = folder.join("state");
            write(&path, b"old").unwrap();
            write(&path, b"new").unwrap();
            assert_eq!(fs::read(&path).unwrap(), b"new");
            assert_eq!(names(folder), ["state"]);
        });
    }

    #[test]
    fn a_name_may_be_as_long_as_names_can_be() {
        in_folder("long", |folder| {
            let path = folder.join("n".repeat(255));
            write(&path, b"new").unwrap();
            assert_eq!(fs::read(&path).unwrap(), b"new");
            let failed = |error: io::Error| error;
            write_by(&path, failed, |path| fs::write(path, b"newer")).unwrap();
            assert_eq!(fs::read(&path).unwrap(), b"newer");
            assert_eq!(names(folder).len(), 1);
        });
    }

    #[test]
    fn many_writers_leave_one_of_their_files_whole() {
        in_folder("many", |folder| {
            let path = folder.join("state");
            let content = |writer: u8| vec![writer; 100_000];
            std::thread::scope(|scope| {
                for writer in 0..8 {
                    scope.spawn({
                        let path = &path;
                        move || write(path, &content(writer)).unwrap()
                    });
                }
            });
            let left = fs::read(&path).unwrap();
            assert_eq!(left, content(left[0]));
            assert_eq!(names(folder), ["state"]);
        });
    }

    #[test]
    fn what_cannot_be_written_leaves_what_was_there() {
        in_folder("keep", |folder| {
            let path = folder.join("folder");
            fs::create_dir(&path).unwrap();
            fs::write(path.join("file"), b"old").unwrap();
            assert!(write(&path, b"new").is_err(), "a folder that is not empty");
            assert_eq!(fs::read(path.join("file")).unwrap(), b"old");
            assert_eq!(names(folder), ["folder"]);
            assert!(write(&folder.join("none/state"), b"new").is_err(), "a folder that does not exist");
            assert!(write(Path::new("/"), b"new").is_err());
        });
    }
}
