//! Windows: a text cut into the pieces that are fed at once.

use std::ops::Range;

use serde::Serialize;

/// Which tokens of a window are predicted and counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Score {
    /// Those of the second half: none has less than half a window before it. As llama.cpp does.
    Half,
    /// All but the first.
    All,
}

impl Score {
    /// The place of the first token of a window of `len` tokens from which the next one is
    /// predicted.
    #[must_use]
    pub fn first(self, len: usize) -> usize {
        match self {
            Self::Half => len / 2,
            Self::All => 0,
        }
    }
}

/// Tokens in windows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Windows {
    tokens: Vec<u32>,
    windows: Vec<Place>,
    coverage: Option<Coverage>,
}

/// The part of a text that its windows use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Coverage {
    /// Tokens of the text. Of documents that a limit left out none is counted.
    pub tokens: usize,
    /// Those of them that are fed or predicted.
    pub used: usize,
    /// Documents that are longer than a window, and lose their end.
    pub cut: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    tokens: Range<usize>,
    first: usize,
}

/// A window: fed from an empty sequence on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window<'a> {
    /// Its tokens.
    pub tokens: &'a [u32],
    /// From the token at this place on, each predicts the one after it, except the last.
    pub first: usize,
}

impl Window<'_> {
    /// Returns the number of predicted tokens.
    #[must_use]
    pub fn predictions(&self) -> usize {
        (self.tokens.len() - 1).saturating_sub(self.first)
    }
}

impl Windows {
    /// Cuts a text into windows of `len` tokens that do not overlap; what is left at the end is not
    /// used. The beginning token, if there is one, takes the place of each window's first token.
    #[must_use]
    pub fn of_text(mut tokens: Vec<u32>, len: usize, bos: Option<u32>, score: Score) -> Self {
        let mut windows = vec![];
        let all = tokens.len();
        if let Some(count) = tokens.len().checked_div(len) {
            tokens.truncate(count * len);
            for start in (0..count).map(|i| i * len) {
                if let Some(bos) = bos {
                    tokens[start] = bos;
                }
                windows.push(Place { tokens: start..start + len, first: score.first(len) });
            }
        }
        // A beginning token is none of the text's.
        let begins = usize::from(bos.is_some());
        let used = windows.iter().map(|place| place.tokens.len() - begins).sum();
        let coverage = Some(Coverage { tokens: all, used, cut: 0 });
        Self { tokens, windows, coverage }
    }

    /// A window for each document, which begins with the beginning token if there is one and is cut
    /// to `len` tokens.
    #[must_use]
    pub fn of_documents(documents: &[Vec<u32>], len: usize, bos: Option<u32>, score: Score) -> Self {
        let mut found = Self::default();
        let mut coverage = Coverage::default();
        for document in documents {
            let begins = bos.filter(|bos| document.first() != Some(bos));
            let added = usize::from(begins.is_some());
            let tokens: Vec<u32> = begins.into_iter().chain(document.iter().copied()).take(len).collect();
            coverage.tokens += document.len();
            coverage.used += tokens.len().saturating_sub(added);
            coverage.cut += usize::from(added + document.len() > len);
            let first = score.first(tokens.len());
            found.push(&tokens, first);
        }
        found.coverage = Some(coverage);
        found
    }

    /// Returns how much of the text they use, if they were cut from one.
    #[must_use]
    pub fn coverage(&self) -> Option<Coverage> {
        self.coverage
    }

    /// The same with a text of so many tokens, where [`of_text`](Self::of_text) was given fewer.
    #[must_use]
    pub fn out_of(mut self, tokens: usize) -> Self {
        if let Some(coverage) = &mut self.coverage {
            coverage.tokens = tokens;
        }
        self
    }

    /// Adds a window.
    pub fn push(&mut self, tokens: &[u32], first: usize) {
        let start = self.tokens.len();
        self.tokens.extend_from_slice(tokens);
        self.windows.push(Place { tokens: start..self.tokens.len(), first });
    }

    /// Puts a token in the place of each window's first one.
    pub fn begin_with(&mut self, bos: u32) {
        for place in &self.windows {
            self.tokens[place.tokens.start] = bos;
        }
    }

    /// The windows in which anything is predicted.
    pub fn iter(&self) -> impl Iterator<Item = Window<'_>> {
        let window = |place: &Place| Window { tokens: &self.tokens[place.tokens.clone()], first: place.first };
        self.windows.iter().map(window).filter(|window| window.tokens.len() > 1 && window.predictions() > 0)
    }

    /// Returns the number of tokens that are predicted in all of them.
    #[must_use]
    pub fn predictions(&self) -> usize {
        self.iter().map(|window| window.predictions()).sum()
    }

    /// Returns the number of tokens that are fed: the last of a window is only predicted.
    #[must_use]
    pub fn fed(&self) -> usize {
        self.iter().map(|window| window.tokens.len() - 1).sum()
    }

    /// The highest token.
    #[must_use]
    pub fn highest(&self) -> Option<u32> {
        self.tokens.iter().copied().max()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(windows: &Windows) -> Vec<(Vec<u32>, usize, usize)> {
        windows.iter().map(|window| (window.tokens.to_vec(), window.first, window.predictions())).collect()
    }

    #[test]
    fn windows_do_not_overlap() {
        let text: Vec<u32> = (10..21).collect();
        let windows = Windows::of_text(text.clone(), 4, Some(1), Score::Half);
        assert_eq!(cut(&windows), [(vec![1, 11, 12, 13], 2, 1), (vec![1, 15, 16, 17], 2, 1)]);
        assert_eq!((windows.predictions(), windows.fed(), windows.highest()), (2, 6, Some(17)));
        // The first token of each window makes room for the beginning token, and three are left at
        // the end.
        assert_eq!(windows.coverage(), Some(Coverage { tokens: 11, used: 6, cut: 0 }));
        let windows = Windows::of_text(text.clone(), 5, None, Score::All);
        assert_eq!(cut(&windows), [(vec![10, 11, 12, 13, 14], 0, 4), (vec![15, 16, 17, 18, 19], 0, 4)]);
        assert_eq!(cut(&Windows::of_text(text.clone(), 12, None, Score::All)), []);
        assert_eq!(cut(&Windows::of_text(text, 0, None, Score::All)), []);
    }

    #[test]
    fn documents_begin_anew() {
        let documents = [vec![5, 6, 7, 8], vec![], vec![1, 9], vec![4]];
        let windows = Windows::of_documents(&documents, 4, Some(1), Score::All);
        assert_eq!(cut(&windows), [(vec![1, 5, 6, 7], 0, 3), (vec![1, 9], 0, 1), (vec![1, 4], 0, 1)]);
        assert_eq!(windows.coverage(), Some(Coverage { tokens: 7, used: 6, cut: 1 }));
        let windows = Windows::of_documents(&documents, 4, None, Score::Half);
        assert_eq!(cut(&windows), [(vec![5, 6, 7, 8], 2, 1)]);
    }
}
