//! Panels: 16 rows interleaved in the order in which every instruction set reads them.
//!
//! A panel holds the blocks of its rows one after the other along the input dimension. Within a
//! block, each field of the row format ([`Format::fields`]: the scale, then the codes four bytes at
//! a time) lies together for all 16 rows, row by row. So a vector register filled from a panel has
//! one row per lane, products need no sums across lanes, and one thread reads one sequential
//! stream.
//!
//! ```text
//! q4_0, one block of a panel, 288 bytes:
//!   0  d[row 0] d[row 1] ... d[row 15]                         16 scales of 2 bytes
//!  32  p[0..4] of row 0, p[0..4] of row 1, ... of row 15       64 bytes
//!  96  p[4..8] of row 0, ...
//! 160  p[8..12] ...
//! 224  p[12..16] ...
//! ```
//!
//! This is a permutation of bytes: rows of GGUF blocks go in ([`pack`]) and come out ([`unpack`])
//! unchanged. A last panel with fewer than 16 rows is filled up with zero bytes.

use crate::error::ShapeError;
use crate::format::Format;
pub use crate::format::PANEL_ROWS;

/// Interleaves up to 16 rows of blocks, in row order, into a panel.
///
/// # Errors
/// If `panel` is not [`Format::panel_bytes`]`(cols)` long or `rows` not between 0 and 16 rows.
pub fn pack(format: Format, cols: usize, rows: &[u8], panel: &mut [u8]) -> Result<(), ShapeError> {
    let row_bytes = check(format, cols, rows.len(), panel.len())?;
    let mut each: [&[u8]; PANEL_ROWS] = [&[]; PANEL_ROWS];
    let count = each.iter_mut().zip(rows.chunks_exact(row_bytes.max(1))).map(|(to, row)| *to = row).count();
    pack_rows(format, cols, &each[..count], panel)
}

/// Interleaves up to 16 rows of blocks, which may lie anywhere, into a panel.
///
/// # Errors
/// If `panel` is not [`Format::panel_bytes`]`(cols)` long, there are more than 16 rows, or one of
/// them is not [`Format::row_bytes`]`(cols)` long.
pub fn pack_rows(format: Format, cols: usize, rows: &[&[u8]], panel: &mut [u8]) -> Result<(), ShapeError> {
    let row_bytes = check(format, cols, 0, panel.len())?;
    ShapeError::check("rows of a panel", rows.len().max(PANEL_ROWS), PANEL_ROWS)?;
    rows.iter().try_for_each(|row| ShapeError::check("bytes of a row", row.len(), row_bytes))?;
    if rows.len() < PANEL_ROWS {
        panel.fill(0);
    }
    // Field by field, so that the panel is written in its order and widths are constants.
    let (mut at_row, mut at_panel) = (0, 0);
    while at_panel < panel.len() {
        for &width in format.fields() {
            let field = &mut panel[at_panel..at_panel + PANEL_ROWS * width];
            match width {
                1 => pack_field::<1>(rows, at_row, field),
                2 => pack_field::<2>(rows, at_row, field),
                4 => pack_field::<4>(rows, at_row, field),
                _ => {
                    for (row, to) in rows.iter().zip(field.chunks_exact_mut(width)) {
                        to.copy_from_slice(&row[at_row..at_row + width]);
                    }
                }
            }
            at_row += width;
            at_panel += PANEL_ROWS * width;
        }
    }
    Ok(())
}

/// Copies a field of `WIDTH` bytes of every row.
#[inline(always)]
fn pack_field<const WIDTH: usize>(rows: &[&[u8]], at_row: usize, field: &mut [u8]) {
    for (row, to) in rows.iter().zip(field.as_chunks_mut::<WIDTH>().0) {
        *to = *row[at_row..].first_chunk().expect("a row has all its fields");
    }
}

/// Extracts the first rows of a panel: as many as `rows` has room for.
///
/// # Errors
/// If `panel` is not [`Format::panel_bytes`]`(cols)` long or `rows` not between 0 and 16 rows.
pub fn unpack(format: Format, cols: usize, panel: &[u8], rows: &mut [u8]) -> Result<(), ShapeError> {
    let row_bytes = check(format, cols, rows.len(), panel.len())?;
    for (row, blocks) in rows.chunks_exact_mut(row_bytes.max(1)).enumerate() {
        unpack_row(format, panel, row, blocks);
    }
    Ok(())
}

/// Copies one row's blocks out of a panel. `row` is below 16 and `blocks` is a sixteenth of the
/// panel's length.
pub(crate) fn unpack_row(format: Format, panel: &[u8], row: usize, blocks: &mut [u8]) {
    for_each_field(format, row, panel.len(), |at_row, at_panel, width| {
        blocks[at_row..at_row + width].copy_from_slice(&panel[at_panel..at_panel + width]);
    });
}

/// Fills a row with zero bytes. `row` is below 16.
pub(crate) fn clear_row(format: Format, panel: &mut [u8], row: usize) {
    for_each_field(format, row, panel.len(), |_, at, width| panel[at..at + width].fill(0));
}

/// Calls `field(offset in the row, offset in the panel, width)` for every field of a row.
#[inline]
fn for_each_field(format: Format, row: usize, panel_bytes: usize, mut field: impl FnMut(usize, usize, usize)) {
    let (mut at_row, mut at_panel) = (0, 0);
    while at_panel < panel_bytes {
        for &width in format.fields() {
            field(at_row, at_panel + row * width, width);
            at_row += width;
            at_panel += PANEL_ROWS * width;
        }
    }
}

/// Checks the lengths and returns the bytes of a row.
fn check(format: Format, cols: usize, rows_len: usize, panel_len: usize) -> Result<usize, ShapeError> {
    let row_bytes = panel_len / PANEL_ROWS;
    ShapeError::check("bytes of a panel", panel_len, format.panel_bytes(cols).unwrap_or(usize::MAX))?;
    let rows = rows_len.checked_div(row_bytes).unwrap_or(0).min(PANEL_ROWS);
    ShapeError::check("bytes of the rows of a panel", rows_len, rows * row_bytes)?;
    Ok(row_bytes)
}
