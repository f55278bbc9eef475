//! Networks that own the model from which their layers borrow: the two cannot be one struct for the
//! borrow checker, and are one here.

#![expect(clippy::disallowed_methods, reason = "what `self_cell` expands to; the crate argues for it")]

use std::sync::Arc;

use self_cell::self_cell;

use crate::model::Model;
use crate::nn::decoder::Decoder;
use crate::nn::encoder::EncoderNetwork;

self_cell!(
    /// A decoder and its model.
    pub(crate) struct OwnedDecoder {
        owner: Arc<Model>,
        #[covariant]
        dependent: Decoder,
    }
);

self_cell!(
    /// An encoder and its model.
    pub(crate) struct OwnedEncoder {
        owner: Arc<Model>,
        #[covariant]
        dependent: EncoderNetwork,
    }
);
