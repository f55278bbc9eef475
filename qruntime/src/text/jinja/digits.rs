//! Digits of all scripts, as Python's `str.isdecimal` and `str.isdigit` define them: Unicode 14,
//! as in Python 3.11.

/// The zeros of all scripts that write decimal numbers. The other nine digits follow each.
#[rustfmt::skip]
const ZEROS: [u32; 66] = [
    0x30, 0x660, 0x6f0, 0x7c0, 0x966, 0x9e6, 0xa66, 0xae6, 0xb66, 0xbe6, 0xc66, 0xce6, 0xd66, 0xde6, 0xe50, 0xed0,
    0xf20, 0x1040, 0x1090, 0x17e0, 0x1810, 0x1946, 0x19d0, 0x1a80, 0x1a90, 0x1b50, 0x1bb0, 0x1c40, 0x1c50, 0xa620,
    0xa8d0, 0xa900, 0xa9d0, 0xa9f0, 0xaa50, 0xabf0, 0xff10, 0x104a0, 0x10d30, 0x11066, 0x110f0, 0x11136, 0x111d0,
    0x112f0, 0x11450, 0x114d0, 0x11650, 0x116c0, 0x11730, 0x118e0, 0x11950, 0x11c50, 0x11d50, 0x11da0, 0x16a60,
    0x16ac0, 0x16b50, 0x1d7ce, 0x1d7d8, 0x1d7e2, 0x1d7ec, 0x1d7f6, 0x1e140, 0x1e2f0, 0x1e950, 0x1fbf0,
];

/// The first and last of each range of digits that do not form decimal numbers: superscripts,
/// circled digits and so on.
#[rustfmt::skip]
const OTHERS: [(u32, u32); 20] = [
    (0xb2, 0xb3), (0xb9, 0xb9), (0x1369, 0x1371), (0x19da, 0x19da), (0x2070, 0x2070), (0x2074, 0x2079),
    (0x2080, 0x2089), (0x2460, 0x2468), (0x2474, 0x247c), (0x2488, 0x2490), (0x24ea, 0x24ea), (0x24f5, 0x24fd),
    (0x24ff, 0x24ff), (0x2776, 0x277e), (0x2780, 0x2788), (0x278a, 0x2792), (0x10a40, 0x10a43), (0x10e60, 0x10e68),
    (0x11052, 0x1105a), (0x1f100, 0x1f10a),
];

/// Returns whether a character is one of the ten digits of a script.
pub(super) fn is_decimal(c: char) -> bool {
    let after = ZEROS.partition_point(|&zero| zero <= c.into());
    after > 0 && u32::from(c) - ZEROS[after - 1] < 10
}

/// Returns whether a character is a digit of any kind.
pub(super) fn is_digit(c: char) -> bool {
    is_decimal(c) || OTHERS.iter().any(|&(first, last)| (first..=last).contains(&c.into()))
}

#[cfg(test)]
mod tests {
    use super::{OTHERS, ZEROS, is_decimal, is_digit};

    /// The counts are Python's: `sum(chr(c).isdigit() for c in range(0x110000))`.
    #[test]
    fn digits_are_as_many_as_in_python() {
        assert!(ZEROS.is_sorted() && OTHERS.is_sorted());
        assert_eq!(('\0'..=char::MAX).filter(|&c| is_decimal(c)).count(), 660);
        assert_eq!(('\0'..=char::MAX).filter(|&c| is_digit(c)).count(), 788);
        assert!(('\0'..=char::MAX).all(|c| !is_digit(c) || c.is_numeric()));
    }
}
