//! What a model file says about itself.

use std::ffi::CString;

use llama_sys as sys;

use crate::model::Model;

impl Model {
    /// The architecture's name, such as `llama` or `bert`.
    #[must_use]
    pub fn architecture(&self) -> String {
        self.metadata_value("general.architecture").unwrap_or_default()
    }

    /// A line about the model: architecture, size, quantisation.
    #[must_use]
    pub fn description(&self) -> String {
        self.text(|result, error, buffer, size| {
            // SAFETY: the model lives, and `buffer` is writable for `size` bytes.
            unsafe { sys::guard_llama_model_desc(result, error, self.as_ptr(), buffer, size) }
        })
        .unwrap_or_default()
    }

    /// All scalar metadata, in the file's order. Arrays are left out, as llama.cpp does.
    #[must_use]
    pub fn metadata(&self) -> Vec<(String, String)> {
        // SAFETY: the model lives, and the function only counts.
        let count = unsafe { sys::llama_model_meta_count(self.as_ptr()) };
        (0..count)
            .filter_map(|index| {
                let key = self.text(|result, error, buffer, size| {
                    // SAFETY: the model lives, `index` is below the count, and `buffer` is writable for `size` bytes.
                    unsafe {
                        sys::guard_llama_model_meta_key_by_index(result, error, self.as_ptr(), index, buffer, size)
                    }
                })?;
                let value = self.text(|result, error, buffer, size| {
                    // SAFETY: as above.
                    unsafe {
                        sys::guard_llama_model_meta_val_str_by_index(result, error, self.as_ptr(), index, buffer, size)
                    }
                })?;
                Some((key, value))
            })
            .collect()
    }

    /// One value as text; `None` if the file does not have it.
    #[must_use]
    pub fn metadata_value(&self, key: &str) -> Option<String> {
        // No key of a file holds a NUL byte: llama.cpp reads keys as terminated strings.
        let key = CString::new(key).ok()?;
        self.text(|result, error, buffer, size| {
            // SAFETY: the model lives, `key` is terminated, and `buffer` is writable for `size` bytes.
            unsafe { sys::guard_llama_model_meta_val_str(result, error, self.as_ptr(), key.as_ptr(), buffer, size) }
        })
    }

    /// Reads a text of unknown length: `read` writes what fits into the buffer, ends it with NUL, and gives the whole
    /// length, or a negative number where there is no text.
    fn text(
        &self,
        read: impl Fn(*mut i32, *mut sys::guard_error, *mut std::ffi::c_char, usize) -> bool,
    ) -> Option<String> {
        let mut buffer = vec![0u8; 256];
        loop {
            let length =
                sys::guarded(-1, |result, error| read(result, error, buffer.as_mut_ptr().cast(), buffer.len())).ok()?;
            let length = usize::try_from(length).ok()?;
            if length < buffer.len() {
                buffer.truncate(length);
                return Some(String::from_utf8_lossy(&buffer).into_owned());
            }
            buffer.resize(length + 1, 0);
        }
    }
}
