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

    /// A stream at the start of a copy of `bytes` and of as many zeros as said, which take no memory where the system has
    /// files with holes.
    pub(crate) fn with_zeros(bytes: &[u8], zeros: u64) -> io::Result<Self> {
        let file = Self::new(bytes)?;
        let Some(mut left) = zeros.checked_sub(1) else { return Ok(file) };
        #[cfg(unix)]
        check_file_limit(zeros.saturating_add(bytes.len() as u64))?;
        let stream = file.stream.as_ptr();
        // SAFETY: the stream is open, here and below.
        let mut result = unsafe { libc::fseek(stream, 0, libc::SEEK_END) };
        while left > 0 && result == 0 {
            // As far as 32 bits go, which is what a `c_long` has on some systems.
            let step = left.min(1 << 30);
            // SAFETY: as above.
            result = unsafe { libc::fseek(stream, step as libc::c_long, libc::SEEK_CUR) };
            left -= step;
        }
        // SAFETY: as above, and a byte is readable.
        let written = result == 0 && unsafe { libc::fwrite([0_u8].as_ptr().cast(), 1, 1, stream) } == 1;
        // SAFETY: as above.
        if !written || unsafe { libc::fseek(stream, 0, libc::SEEK_SET) } != 0 {
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

/// Refuses files that are longer than the process may write: the system would send it a signal.
#[cfg(unix)]
fn check_file_limit(bytes: u64) -> io::Result<()> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the struct is there to be filled.
    let known = unsafe { libc::getrlimit(libc::RLIMIT_FSIZE, &mut limit) } == 0;
    if known && bytes > limit.rlim_cur { Err(io::ErrorKind::FileTooLarge.into()) } else { Ok(()) }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeros_follow_the_bytes() {
        for zeros in [0, 1, 2, 5000, (1 << 30) + 1, 5 << 30] {
            let file = MemoryFile::with_zeros(b"GGUF", zeros).unwrap();
            let stream = file.stream.as_ptr();
            let mut bytes = [7_u8; 6];
            // SAFETY: the stream is open, and there is room for six bytes.
            let read = unsafe { libc::fread(bytes.as_mut_ptr().cast(), 1, bytes.len(), stream) };
            assert_eq!(read as u64, 4 + zeros.min(2));
            assert!(bytes.starts_with(b"GGUF") && bytes[4..read].iter().all(|byte| *byte == 0));
            // SAFETY: as above.
            let length = unsafe {
                libc::fseek(stream, 0, libc::SEEK_END);
                libc::ftell(stream)
            };
            assert_eq!(length as u64, 4 + zeros);
        }
    }
}
