//! From a [`Model`] to a file.

use std::ffi::CString;
use std::path::Path;

use llama_sys as sys;

use crate::error::SaveError;
use crate::model::Model;
use crate::model::file::c_path;
use crate::params::{LoadMode, ModelParams};
use crate::whole_file::write_by;

/// Architectures of which llama.cpp's writer leaves something out, so that the file is no model, or another one. (Found by
/// writing and reading a model of each.)
const LEFT_OUT: [(&str, &str); 5] = [
    // llama_model_saver_supports_arch (llama-model-saver.cpp:14).
    ("gemma3n bitnet t5 apertus step35 clef", "its writer does not know all of its tensors or numbers"),
    // llama-model-saver.cpp:465: only a model with an output head keeps it.
    (
        "bert eurobert jina-bert-v2 jina-bert-v3 modern-bert neo-bert nomic-bert nomic-bert-moe",
        "its writer leaves out the token embedding",
    ),
    // The same line, which reads the name of what is not there.
    ("eagle3", "its writer looks for a token embedding"),
    ("dflash dots3note gemma4 graniteswitch wavtokenizer-dec", "its writer leaves out numbers that it needs"),
    ("nemotron_h_moe", "its writer leaves out the width of its experts"),
];

impl Model {
    /// Writes the model to a GGUF file: all of it or nothing, so that a file that is there already stays as it is until the
    /// new one is complete.
    ///
    /// llama.cpp writes what it computes and tokenizes with. The chat template and descriptions (author, licence) are
    /// not among it: a copy of the file keeps them. Load with [`repack(false)`](crate::ModelParams::repack) what is to
    /// be saved, unless all weights are F32: rearranged weights cannot be read back.
    ///
    /// # Errors
    ///
    /// [`SaveError`]: the model has no weights, or rearranged ones; its architecture is one that llama.cpp writes in part
    /// only; the file cannot be written.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<(), SaveError> {
        let path = path.as_ref();
        if self.is_vocab_only() {
            return Err(SaveError::VocabularyOnly);
        }
        if self.may_be_repacked() {
            return Err(SaveError::Repacked);
        }
        let architecture = self.architecture();
        if let Some((_, reason)) =
            LEFT_OUT.iter().find(|(names, _)| names.split_whitespace().any(|name| name == architecture))
        {
            return Err(SaveError::Unsupported { architecture, reason });
        }
        write_model(path, |c_path| {
            // SAFETY: the model lives, and the path is terminated.
            let saved = sys::guarded_unit(|error| unsafe {
                sys::guard_llama_model_save_to_file(error, self.as_ptr(), c_path.as_ptr())
            });
            saved.map_err(|reason| SaveError::Failed { reason })
        })
    }
}

/// Has `write` write a model file, and looks at what it wrote: llama.cpp does not say when the disk is full.
pub(crate) fn write_model<E: From<SaveError>>(
    path: &Path,
    write: impl FnOnce(&CString) -> Result<(), E>,
) -> Result<(), E> {
    let has_nul = || SaveError::PathHasNul { path: path.to_owned() };
    let unwritable = |source| E::from(SaveError::Unwritable { path: path.to_owned(), source });
    c_path(path).ok_or_else(has_nul)?;
    write_by(path, unwritable, |temporary| {
        write(&c_path(temporary).ok_or_else(has_nul)?)?;
        // Mapped, so that no weight is read.
        let trial = ModelParams::default().gpu_layers(0).repack(false).load_mode(LoadMode::Mmap);
        Model::load(temporary, &trial).map(drop).map_err(|error| SaveError::Incomplete(error).into())
    })
}
