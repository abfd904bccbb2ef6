//! Features as unit vectors: their inner products are cosines.

use tch::Tensor;

use super::inner_products::{check_matrix, to_vec};
use crate::error::{Error, Result};

/// features [N, D] f32 -> [N, D], rows divided by their Euclidean norms. A row whose norm is zero or not finite is an
/// error that names it, counted from `first`.
pub fn normalise_rows(features: &Tensor, first: usize) -> Result<Tensor> {
    check_matrix(features, "features")?;
    let norm = features.norm_scalaropt_dim(2, [1i64].as_slice(), true);
    for (row, norm) in to_vec(&norm)?.into_iter().enumerate() {
        if !norm.is_finite() || norm == 0.0 {
            return Err(Error::failed(format!("features of row {}: their norm is {norm}", first + row)));
        }
    }
    Ok(features / norm)
}
