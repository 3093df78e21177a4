//! Temperature: how much the likely tokens are preferred.

use super::field::Field;

/// Divides logits by the temperature; at 0 the likeliest token alone stays.
pub(super) fn fixed(field: &mut Field<'_>, temperature: f32) {
    if temperature == 0.0 {
        field.keep_highest();
    } else if temperature != 1.0 {
        field.divide(temperature);
    }
}

/// A temperature that depends on how sure the model is (Zhu et al., "Hot or Cold? Adaptive Temperature Sampling", 2023).
#[derive(Clone, Copy, Debug)]
pub(super) struct Dynamic {
    pub(super) temperature: f32,
    pub(super) range: f32,
    pub(super) exponent: f32,
}

pub(super) fn dynamic(field: &mut Field<'_>, Dynamic { temperature, range, exponent }: Dynamic) {
    if range == 0.0 {
        return fixed(field, temperature);
    }
    let count = field.len();
    if count <= 1 {
        return;
    }
    let lowest = (temperature - range).max(0.0);
    let highest = temperature + range;
    // Forbidden tokens count here, as in llama.cpp.
    let most = -(1.0 / count as f32).ln();
    field.sort();
    field.softmax();
    let mut entropy = 0.0f32;
    for one in &field.buffers.list {
        if one.p > 0.0 {
            entropy -= one.p * one.p.ln();
        }
    }
    fixed(field, lowest + (highest - lowest) * (entropy / most).powf(exponent));
}
