//! Pixels to JPEG through libjpeg-turbo: the same bytes on every machine.

use std::ffi::c_ulong;
use std::mem::MaybeUninit;
use std::ptr;

use image::RgbImage;
use mozjpeg_sys::*;

use super::jpeg::{guarded, set_errors};

/// A JPEG of quality 95, the chroma at full resolution.
pub fn to_jpeg(image: &RgbImage) -> Result<Vec<u8>, String> {
    let mut encoder = Encoder::new()?;
    let Encoder { info, bytes, length, .. } = &mut *encoder;
    guarded(|| {
        info.image_width = image.width();
        info.image_height = image.height();
        info.input_components = 3;
        info.in_color_space = J_COLOR_SPACE::JCS_RGB;
        let mut row = image.as_ptr();
        // SAFETY: `info` has been created; libjpeg owns what it puts into `bytes` until `Encoder` is dropped, and asks for rows
        // of the image alone
        unsafe {
            // not mozjpeg's own, which takes many times as long for a file that is smaller by a few percent
            jpeg_c_set_int_param(info, JINT_COMPRESS_PROFILE, JCP_FASTEST as i32);
            jpeg_set_defaults(info);
            jpeg_set_quality(info, 95, true.into());
            for component in 0..info.num_components as usize {
                let component = &mut *info.comp_info.add(component);
                (component.h_samp_factor, component.v_samp_factor) = (1, 1);
            }
            jpeg_mem_dest(info, bytes, length);
            jpeg_start_compress(info, true.into());
            while info.next_scanline < info.image_height {
                jpeg_write_scanlines(info, &row, 1);
                row = row.add(3 * info.image_width as usize);
            }
            jpeg_finish_compress(info);
        }
    })?;
    // SAFETY: written by libjpeg, which has finished
    Ok(unsafe { std::slice::from_raw_parts(*bytes, *length as usize) }.to_vec())
}

/// libjpeg's state. It holds addresses of its other fields: never moved out of its box.
struct Encoder {
    info: jpeg_compress_struct,
    errors: jpeg_error_mgr,
    bytes: *mut u8,
    length: c_ulong,
}

impl Encoder {
    fn new() -> Result<Box<Encoder>, String> {
        // SAFETY: all are C structures of numbers and of pointers that may be null
        let mut encoder: Box<Encoder> = unsafe { Box::new(MaybeUninit::zeroed().assume_init()) };
        let Encoder { info, errors, .. } = &mut *encoder;
        // SAFETY: the error handler comes before all else, and lives as long as the rest
        guarded(|| unsafe {
            info.common.err = set_errors(errors);
            jpeg_create_compress(info);
        })?;
        Ok(encoder)
    }
}

impl Drop for Encoder {
    fn drop(&mut self) {
        // SAFETY: created by `new`, or still zero, which libjpeg looks for; `bytes` are malloc's, or null
        unsafe {
            jpeg_destroy_compress(&mut self.info);
            libc::free(ptr::replace(&mut self.bytes, ptr::null_mut()).cast());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::decode;

    #[test]
    fn a_jpeg_is_close_to_its_pixels_and_has_the_chroma_at_full_resolution() {
        // colours that change from pixel to pixel, which half the resolution would blur; odd sides
        let image = RgbImage::from_fn(131, 93, |x, y| {
            let on = (x / 2 + y / 2) % 2 == 0;
            image::Rgb(if on { [200, 60, 60] } else { [60, 60, 200] })
        });
        let decoded = decode::any(&to_jpeg(&image).unwrap()).unwrap();
        let squares = image.iter().zip(decoded.iter()).map(|(a, b)| f64::from(a.abs_diff(*b)).powi(2));
        let error = (squares.sum::<f64>() / image.len() as f64).sqrt();
        assert!(error < 4.0, "{error}");
    }

    #[test]
    fn an_image_of_one_pixel_is_encoded_and_one_without_pixels_is_an_error() {
        let one = RgbImage::from_pixel(1, 1, image::Rgb([10, 20, 30]));
        assert_eq!(decode::any(&to_jpeg(&one).unwrap()).unwrap().dimensions(), (1, 1));
        assert!(to_jpeg(&RgbImage::new(0, 3)).unwrap_err().contains("mpty"), "Empty JPEG image");
    }
}
