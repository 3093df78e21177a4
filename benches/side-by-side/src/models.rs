//! The models that are measured: untrained ones, since speed does not depend on what the weights are.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::ValueEnum;
use fixtures::{Llama, Weights};

/// A shape and the format of its weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum BenchModel {
    /// 135 million parameters, 8 bits each.
    #[value(name = "135m-q8_0")]
    M135Q8,
    /// 135 million parameters, 4 bits each.
    #[value(name = "135m-q4_0")]
    M135Q4,
    /// 494 million parameters and a vocabulary of 151,936 tokens, 8 bits each.
    #[value(name = "500m-q8_0")]
    M500Q8,
    /// The same, 4 bits each.
    #[value(name = "500m-q4_0")]
    M500Q4,
    /// 1,334 million parameters, 8 bits each: 32 experts a layer, of which a token takes 8.
    #[value(name = "1b-a400m-q8_0")]
    M1300Q8,
    /// The same, 4 bits each.
    #[value(name = "1b-a400m-q4_0")]
    M1300Q4,
}

impl BenchModel {
    /// As tables call it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::M135Q8 => "135M Q8_0",
            Self::M135Q4 => "135M Q4_0",
            Self::M500Q8 => "0.5B Q8_0",
            Self::M500Q4 => "0.5B Q4_0",
            Self::M1300Q8 => "1B-A400M Q8_0",
            Self::M1300Q4 => "1B-A400M Q4_0",
        }
    }

    /// As files are called.
    #[must_use]
    pub const fn stem(self) -> &'static str {
        match self {
            Self::M135Q8 => "135m-q8_0",
            Self::M135Q4 => "135m-q4_0",
            Self::M500Q8 => "500m-q8_0",
            Self::M500Q4 => "500m-q4_0",
            Self::M1300Q8 => "1b-a400m-q8_0",
            Self::M1300Q4 => "1b-a400m-q4_0",
        }
    }

    const fn shape(self) -> Llama {
        match self {
            Self::M135Q8 | Self::M135Q4 => Llama::m135(),
            Self::M500Q8 | Self::M500Q4 => Llama::m500(),
            Self::M1300Q8 | Self::M1300Q4 => Llama::m1300(),
        }
    }

    /// Tokens of its vocabulary.
    #[must_use]
    pub const fn vocabulary(self) -> u32 {
        self.shape().vocabulary
    }

    /// Writes the model into a folder, the same bytes each time, and returns where it is.
    ///
    /// # Errors
    ///
    /// What the file system reports.
    pub fn write(self, folder: &Path) -> Result<PathBuf> {
        let weights = match self {
            Self::M135Q8 | Self::M500Q8 | Self::M1300Q8 => Weights::Q8_0,
            Self::M135Q4 | Self::M500Q4 | Self::M1300Q4 => Weights::Q4_0,
        };
        let path = folder.join(format!("{}.gguf", self.stem()));
        fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
        self.shape().write(weights, 1, &path).with_context(|| format!("writing {}", path.display()))?;
        Ok(path)
    }
}
