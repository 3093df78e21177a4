//! Bytes as a C stream: the only form in which llama.cpp takes a model that is no file.

use std::ffi::c_void;
use std::io;
use std::ptr::NonNull;

/// A C stream over bytes, closed when dropped.
pub(crate) struct MemoryFile {
    stream: NonNull<libc::FILE>,
}

impl MemoryFile {
    /// A stream at the start of a copy of `bytes`.
    pub(crate) fn new(bytes: &[u8]) -> io::Result<Self> {
        let file = Self { stream: NonNull::new(open_stream()).ok_or_else(io::Error::last_os_error)? };
        // SAFETY: the stream is open for writing, and `bytes` is readable for its length.
        let written = unsafe { libc::fwrite(bytes.as_ptr().cast(), 1, bytes.len(), file.stream.as_ptr()) };
        // SAFETY: the stream is open. Rewinding flushes it as well.
        if written != bytes.len() || unsafe { libc::fseek(file.stream.as_ptr(), 0, libc::SEEK_SET) } != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(file)
    }

    /// The stream, open for as long as this lives.
    pub(crate) fn as_ptr(&self) -> *mut c_void {
        self.stream.as_ptr().cast()
    }
}

impl Drop for MemoryFile {
    fn drop(&mut self) {
        // SAFETY: opened in `new`, closed only here.
        unsafe { libc::fclose(self.stream.as_ptr()) };
    }
}

/// A file without a name, in memory: it works where no folder can be written.
#[cfg(target_os = "linux")]
fn open_stream() -> *mut libc::FILE {
    // SAFETY: both strings are terminated, and the descriptor is fresh; the stream owns it if it is made.
    unsafe {
        let descriptor = libc::memfd_create(c"gguf".as_ptr(), libc::MFD_CLOEXEC);
        if descriptor < 0 {
            return std::ptr::null_mut();
        }
        let stream = libc::fdopen(descriptor, c"w+b".as_ptr());
        if stream.is_null() {
            libc::close(descriptor);
        }
        stream
    }
}

/// A file that the system deletes when it is closed.
#[cfg(not(target_os = "linux"))]
fn open_stream() -> *mut libc::FILE {
    // SAFETY: takes nothing.
    unsafe { libc::tmpfile() }
}
