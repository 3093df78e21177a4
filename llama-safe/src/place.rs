//! Where an input embedding stands, for models whose positions are four numbers (M-RoPE).
#![forbid(unsafe_code)]

/// The position of an input embedding in a model with M-RoPE, such as one part of a picture's: four numbers, which rotate
/// different parts of the attention's keys. A token at position `p` of its sequence has `p` for the first three, and 0 for
/// the fourth.
///
/// A picture that follows `p` tokens has `time: p` throughout, `height: p + row` and `width: p + column`; what follows it
/// begins after the largest of all, at `p + max(rows, columns)`. A film's pictures count up `time`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Place {
    /// What decides who sees whom: an embedding sees those of earlier times, and of its own time those before it in height,
    /// then in width.
    pub time: u32,
    /// Row of a picture, counted on from its time.
    pub height: u32,
    /// Column of a picture, counted on from its time.
    pub width: u32,
    /// 0 for most models.
    pub fourth: u32,
}

impl Place {
    /// That of a token, or of an embedding that stands for one.
    pub(crate) fn of_text(position: u32) -> Self {
        Self { time: position, height: position, width: position, fourth: 0 }
    }

    /// The largest number.
    pub(crate) fn largest(self) -> u32 {
        self.time.max(self.height).max(self.width).max(self.fourth)
    }

    /// The position of a token that follows.
    pub(crate) fn next(self) -> u32 {
        self.time.max(self.height).max(self.width) + 1
    }

    /// Whether what stands here sees what stands at `other`, and not the other way round.
    ///
    /// That is how llama.cpp masks (llama-kv-cache.cpp:1681). In any other order the result would depend on which of the
    /// two is in memory first, and so on how a batch is cut into micro-batches.
    pub(crate) fn comes_after(self, other: Self) -> bool {
        (self.time, self.height, self.width) > (other.time, other.height, other.width)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_is_time_then_height_then_width() {
        let place = |time, height, width| Place { time, height, width, fourth: 0 };
        let ascending = [place(3, 3, 3), place(4, 0, 9), place(4, 1, 0), place(4, 1, 2), place(5, 0, 0)];
        for (index, first) in ascending.iter().enumerate() {
            for (other, second) in ascending.iter().enumerate() {
                assert_eq!(second.comes_after(*first), other > index);
            }
        }
        assert_eq!((place(4, 9, 2).next(), Place::of_text(7).next()), (10, 8));
        assert_eq!(Place { fourth: 20, ..place(4, 9, 2) }.largest(), 20);
    }
}
