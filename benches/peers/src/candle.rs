//! candle's quantized product. Its threads are fixed when it first runs: `CANDLE_NUM_THREADS`.

use anyhow::Result;
use candle_core::quantized::{GgmlDType, QMatMul, QTensor};
use candle_core::{Device, Module, Tensor};
use ndarray::Array2;

use crate::contest::{Contestant, Problem, Turns};

/// Matrices that candle has quantized.
pub(crate) struct Candle {
    matrices: Turns<QMatMul>,
    decoded: Array2<f32>,
    x: Tensor,
    y: Tensor,
}

impl Candle {
    /// Has candle quantize the matrix of a problem; `None` where it lacks the format.
    pub(crate) fn new(problem: &Problem, format: &str) -> Result<Option<Self>> {
        let dtype = match format {
            "q4_0" => GgmlDType::Q4_0,
            "q4_1" => GgmlDType::Q4_1,
            "q8_0" => GgmlDType::Q8_0,
            "q4_k" => GgmlDType::Q4K,
            "q5_k" => GgmlDType::Q5K,
            "q6_k" => GgmlDType::Q6K,
            _ => return Ok(None),
        };
        let weights = Tensor::from_slice(problem.weights(), problem.weights.dim(), &Device::Cpu)?;
        let matrix = QTensor::quantize(&weights, dtype)?;
        let decoded = matrix.dequantize(&Device::Cpu)?;
        let bytes = matrix.data()?.into_owned();
        let mut copies = Vec::new();
        for _ in 0..Turns::<QMatMul>::cold_count(bytes.len()) {
            let storage = candle_core::quantized::QStorage::from_data(bytes.as_slice().into(), &Device::Cpu, dtype)?;
            copies.push(QMatMul::from_qtensor(QTensor::new(storage, problem.weights.dim())?)?);
        }
        let nothing = Tensor::zeros((0, 0), candle_core::DType::F32, &Device::Cpu)?;
        Ok(Some(Self { matrices: Turns::new(copies), decoded: array(&decoded)?, x: nothing.clone(), y: nothing }))
    }
}

fn array(tensor: &Tensor) -> Result<Array2<f32>> {
    Ok(Array2::from_shape_vec(tensor.dims2()?, tensor.flatten_all()?.to_vec1()?)?)
}

impl Contestant for Candle {
    fn name(&self) -> String {
        "candle".into()
    }

    fn prepare(&mut self, problem: &Problem, rows: usize) -> Result<()> {
        let cols = problem.weights.ncols();
        self.x = Tensor::from_slice(problem.x(rows), (rows, cols), &Device::Cpu)?;
        // It rearranges a matrix when it first meets more than one row, or any.
        let two = Tensor::from_slice(problem.x(2), (2, cols), &Device::Cpu)?;
        for matrix in self.matrices.all() {
            matrix.forward(&two)?;
        }
        Ok(())
    }

    fn multiply(&mut self) -> Result<()> {
        self.y = self.matrices.turn().forward(&self.x)?;
        Ok(())
    }

    fn product(&self) -> Result<Array2<f32>> {
        array(&self.y)
    }

    fn weights(&self) -> Result<Array2<f32>> {
        Ok(self.decoded.clone())
    }
}
