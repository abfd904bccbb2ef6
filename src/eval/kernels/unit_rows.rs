//! Features as unit vectors: their inner products are cosines.

use tch::Tensor;

use super::inner_products::{check_matrix, to_vec};
use crate::error::{Error, Result};

/// features [N, D] f32 -> [N, D], rows divided by their Euclidean norms. A row whose norm is zero or not finite is an
/// error that names it, counted from `first`.
pub fn normalise_rows(features: &Tensor, first: usize) -> Result<Tensor> {
    divided(features)?
        .map_err(|(row, norm)| Error::failed(format!("features of row {}: their norm is {norm}", first + row)))
}

/// Does the same with features that a network has just made. `None`: a row's norm is zero or not finite, which tells that
/// the network has failed.
pub fn unit_rows(features: &Tensor) -> Result<Option<Tensor>> {
    Ok(divided(features)?.ok())
}

/// The unit rows, or the number and the norm of the first row that has no direction.
fn divided(features: &Tensor) -> Result<std::result::Result<Tensor, (usize, f32)>> {
    check_matrix(features, "features")?;
    let norms = features.norm_scalaropt_dim(2, [1i64].as_slice(), true);
    let bad = to_vec(&norms)?.into_iter().enumerate().find(|(_, norm)| !norm.is_finite() || *norm == 0.0);
    Ok(bad.map_or_else(|| Ok(features / norms), Err))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Kind;

    #[test]
    fn only_rows_without_a_direction_give_no_unit_rows() {
        let rows = Tensor::from_slice(&[3f32, 4., 0., 2.]).view([2, 2]);
        let unit = Vec::<f32>::try_from(unit_rows(&rows).unwrap().unwrap().view(-1)).unwrap();
        assert_eq!(unit, [0.6, 0.8, 0., 1.]);
        for bad in [0.0, f64::NAN, f64::INFINITY] {
            let _ = rows.get(1).fill_(bad);
            assert!(unit_rows(&rows).unwrap().is_none());
            assert!(normalise_rows(&rows, 5).unwrap_err().to_string().contains("row 6"));
        }
        assert!(unit_rows(&rows.to_kind(Kind::Double)).is_err(), "an error that says nothing about the network");
    }
}
