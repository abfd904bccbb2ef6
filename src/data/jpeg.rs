//! JPEG files through libjpeg-turbo, in mozjpeg's copy: whole, or a part of them at a reduced scale.
//!
//! The pixels are Pillow's and torchvision's, and the same on every machine: libjpeg-turbo's vector code gives what its C
//! gives. It goes on after damage with a warning; here a warning is an error, for half an image with grey below would train
//! as if it were whole.

use std::any::Any;
use std::mem::MaybeUninit;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use image::metadata::Orientation;
use mozjpeg_sys::*;

use super::Rectangle;

/// Larger images are taken for decompression bombs.
const MAX_SIDE: usize = 1 << 14;
/// 64 megapixels: about 400 MB while such an image is decoded.
pub const MAX_PIXELS: usize = 1 << 26;
/// Rows that libjpeg is asked for at once.
const ROWS: usize = 8;
/// Columns on each side of a part with which its chroma is as in the whole image.
const MARGIN: usize = 2;
/// libjpeg's JMSG_LENGTH_MAX.
const MESSAGE_LENGTH: usize = 200;
const APP1: i32 = 0xE1;
const JPEG_END: u32 = 0xD9;

/// A JPEG whose header has been read.
pub struct Jpeg<'a> {
    decoder: Box<Decoder>,
    bytes: &'a [u8],
    /// Height and width.
    pub size: (usize, usize),
}

/// A part of an image with what lies around it, as much as decoding it took.
pub struct Region {
    /// [height, width, 4]: RGB and a byte without meaning.
    pub pixels: Vec<u8>,
    pub size: (usize, usize),
    /// Row and column of the (reduced) image that come first.
    pub from: (usize, usize),
}

pub fn is_jpeg(bytes: &[u8]) -> bool {
    bytes.starts_with(&[0xFF, 0xD8, 0xFF])
}

impl Jpeg<'_> {
    /// Errors: not a JPEG, truncated, without pixels or with too many of them.
    pub fn open(bytes: &[u8]) -> Result<Jpeg<'_>, String> {
        if !has_end(bytes) {
            return Err("truncated: a JPEG without its end marker".into());
        }
        let mut decoder = Decoder::new()?;
        let info = &mut decoder.info;
        // SAFETY: `info` has been created, and the bytes outlive it
        guarded(|| unsafe {
            jpeg_mem_src(info, bytes.as_ptr(), bytes.len() as _);
            jpeg_save_markers(info, APP1, 0xFFFF);
            jpeg_read_header(info, true.into());
        })?;
        let size = (info.image_height as usize, info.image_width as usize);
        check_pixels(size)?;
        Ok(Jpeg { decoder, bytes, size })
    }

    /// What the EXIF tag says.
    pub fn orientation(&self) -> Orientation {
        let mut marker = self.decoder.info.marker_list;
        // SAFETY: a list of what libjpeg has saved, which lives as long as the decoder
        while let Some(saved) = unsafe { marker.as_ref() } {
            let data = unsafe { std::slice::from_raw_parts(saved.data, saved.data_length as usize) };
            let exif = data.strip_prefix(b"Exif\0\0").filter(|_| i32::from(saved.marker) == APP1);
            if let Some(orientation) = exif.and_then(Orientation::from_exif_chunk) {
                return orientation;
            }
            marker = saved.next;
        }
        Orientation::NoTransforms
    }

    /// All of it, RGB [H, W, 3]. Grey, CMYK and others become RGB.
    ///
    /// Errors: damaged, truncated.
    pub fn read(mut self, pixels: &mut [u8]) -> Result<(), String> {
        let (height, width) = self.size;
        assert_eq!(pixels.len(), height * width * 3, "room for the image");
        guarded(|| {
            self.start::<3>(1);
            self.rows::<3>(pixels.as_mut_ptr(), (height, width));
            // SAFETY: all rows have been read
            unsafe { jpeg_finish_decompress(&mut self.decoder.info) };
        })
    }

    /// What `part` covers, the image's sides divided by `reduction` (1, 2, 4 or 8) and rounded up: what a side of 8
    /// pixels is reduced to comes from the lower frequencies alone, so nothing is aliased. Without reduction the same
    /// pixels as `read`'s. What lies below the part is not looked at.
    ///
    /// Errors: damaged, truncated.
    pub fn read_region(mut self, part: Rectangle, reduction: usize) -> Result<Region, String> {
        let end = |start: usize, length: usize, side: usize| (start + length).div_ceil(reduction).min(side);
        guarded(|| {
            self.start::<4>(reduction);
            let info = &mut self.decoder.info;
            let (all_height, all_width) = (info.output_height as usize, info.output_width as usize);
            let (top, bottom) = (part.top / reduction, end(part.top, part.height, all_height));
            let left = (part.left / reduction).saturating_sub(MARGIN);
            let right = (end(part.left, part.width, all_width) + MARGIN).min(all_width);
            let (mut first, mut width) = (left as JDIMENSION, (right - left) as JDIMENSION);
            // SAFETY: decoding has been started; rows and columns lie in the image
            unsafe {
                jpeg_crop_scanline(info, &mut first, &mut width);
                if top > 0 {
                    jpeg_skip_scanlines(info, top as JDIMENSION);
                }
            }
            let size = (bottom - top, width as usize);
            let mut pixels = Vec::with_capacity(size.0 * size.1 * 4);
            self.rows::<4>(pixels.as_mut_ptr(), size);
            // SAFETY: `rows` has written every byte
            unsafe { pixels.set_len(size.0 * size.1 * 4) };
            Region { pixels, size, from: (top, first as usize) }
        })
    }

    /// Starts decoding to RGB with CHANNELS bytes a pixel.
    fn start<const CHANNELS: usize>(&mut self, reduction: usize) {
        let info = &mut self.decoder.info;
        info.out_color_space = match (info.num_components, CHANNELS) {
            (4, _) => J_COLOR_SPACE::JCS_CMYK,
            (_, 3) => J_COLOR_SPACE::JCS_RGB,
            _ => J_COLOR_SPACE::JCS_EXT_RGBX,
        };
        (info.scale_num, info.scale_denom) = (1, reduction as u32);
        // SAFETY: the header has been read
        unsafe { jpeg_start_decompress(info) };
    }

    /// Writes the next height x width x CHANNELS bytes.
    fn rows<const CHANNELS: usize>(&mut self, pixels: *mut u8, (height, width): (usize, usize)) {
        let is_cmyk = self.decoder.info.out_color_space == J_COLOR_SPACE::JCS_CMYK;
        let is_inverted = is_cmyk && has_adobe_marker(self.bytes);
        let mut inks = vec![0; if is_cmyk { width * 4 } else { 0 }];
        let mut row = 0;
        while row < height {
            // SAFETY: `pixels` has room for all rows, `inks` for one
            let read = unsafe {
                let at = |row: usize| pixels.add(row.min(height - 1) * width * CHANNELS);
                let mut rows: [*mut u8; ROWS] =
                    std::array::from_fn(|i| if is_cmyk { inks.as_mut_ptr() } else { at(row + i) });
                let wanted = if is_cmyk { 1 } else { ROWS.min(height - row) };
                let read =
                    jpeg_read_scanlines(&mut self.decoder.info, rows.as_mut_ptr(), wanted as JDIMENSION) as usize;
                if is_cmyk {
                    rgb_of_inks::<CHANNELS>(&inks, is_inverted, at(row));
                }
                read
            };
            row += read;
        }
    }
}

/// As Pillow does it: what the black lets through, times what the other ink lets through. `pixels`: one row.
unsafe fn rgb_of_inks<const CHANNELS: usize>(inks: &[u8], is_inverted: bool, pixels: *mut u8) {
    for (i, ink) in inks.as_chunks::<4>().0.iter().enumerate() {
        let [c, m, y, k] = ink.map(|ink| u32::from(if is_inverted { ink } else { 255 - ink }));
        for (channel, light) in [c, m, y].into_iter().enumerate() {
            // SAFETY: as many pixels as inks
            unsafe { pixels.add(i * CHANNELS + channel).write(((light * k + 127) / 255) as u8) };
        }
        if CHANNELS == 4 {
            unsafe { pixels.add(i * CHANNELS + 3).write(255) };
        }
    }
}

/// Adobe's CMYK is inverted. The marker APP14 says so.
fn has_adobe_marker(bytes: &[u8]) -> bool {
    bytes.windows(9).any(|bytes| matches!(bytes, [0xFF, 0xEE, _, _, b'A', b'd', b'o', b'b', b'e']))
}

/// Whether an end marker follows the last start of a scan. Not just any: an embedded thumbnail has one too.
fn has_end(bytes: &[u8]) -> bool {
    let last = bytes.windows(2).rev().find(|pair| matches!(pair, [0xFF, 0xD9] | [0xFF, 0xDA]));
    last.is_some_and(|pair| pair[1] == 0xD9)
}

pub fn check_pixels((height, width): (usize, usize)) -> Result<(), String> {
    if height == 0 || width == 0 {
        return Err("without pixels".into());
    }
    if height.max(width) > MAX_SIDE || height * width > MAX_PIXELS {
        return Err(format!("{height} x {width} pixels are too many"));
    }
    Ok(())
}

/// libjpeg's state. It holds the address of `errors`: never moved out of its box.
struct Decoder {
    info: jpeg_decompress_struct,
    errors: jpeg_error_mgr,
}

impl Decoder {
    fn new() -> Result<Box<Decoder>, String> {
        // SAFETY: both are C structures of numbers and of pointers that may be null
        let mut decoder: Box<Decoder> = unsafe { Box::new(MaybeUninit::zeroed().assume_init()) };
        let Decoder { info, errors } = &mut *decoder;
        // SAFETY: the error handler comes before all else, and lives as long as the rest
        guarded(|| unsafe {
            info.common.err = set_errors(errors);
            jpeg_create_decompress(info);
        })?;
        Ok(decoder)
    }
}

impl Drop for Decoder {
    fn drop(&mut self) {
        // SAFETY: created by `new`, or still zero, which libjpeg looks for
        unsafe { jpeg_destroy_decompress(&mut self.info) };
    }
}

/// Failures and damage unwind to `guarded`.
pub(super) fn set_errors(errors: &mut jpeg_error_mgr) -> *mut jpeg_error_mgr {
    // SAFETY: it fills in the structure
    unsafe { jpeg_std_error(errors) };
    errors.error_exit = Some(fail);
    errors.emit_message = Some(warn);
    errors
}

/// Why libjpeg can't go on.
struct Failure(String);

/// Runs calls of libjpeg, whose failures unwind through it.
pub(super) fn guarded<T>(calls: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(calls)).map_err(|cause: Box<dyn Any + Send>| match cause.downcast::<Failure>() {
        Ok(failure) => failure.0,
        Err(panic) => resume_unwind(panic),
    })
}

/// libjpeg's `error_exit`, which must not return.
unsafe extern "C-unwind" fn fail(info: &mut jpeg_common_struct) {
    let mut text = [0u8; MESSAGE_LENGTH];
    // SAFETY: set by `jpeg_std_error`; it writes at most so many bytes, whatever its declared type
    unsafe {
        if let Some(format) = (*info.err).format_message {
            format(info, &*text.as_mut_ptr().cast());
        }
    }
    let text = text.split(|&byte| byte == 0).next().unwrap_or_default();
    // not a panic: no hook is told
    resume_unwind(Box::new(Failure(String::from_utf8_lossy(text).into_owned())));
}

/// libjpeg's `emit_message`: a level below 0 is a warning. Those that are no damage of the pixels are left out.
unsafe extern "C-unwind" fn warn(info: &mut jpeg_common_struct, level: i32) {
    // SAFETY: set by `set_errors`
    let errors = unsafe { &*info.err };
    let harmless = match errors.msg_code {
        JWRN_ADOBE_XFORM | JWRN_JFIF_MAJOR | JWRN_BOGUS_ICC => true,
        // so many bytes before this marker: some programs leave a few after the last block
        JWRN_EXTRANEOUS_DATA => errors.msg_parm._bindgen_data_[1] == JPEG_END,
        _ => false,
    };
    if level < 0 && !harmless {
        // SAFETY: the same structure
        unsafe { fail(info) };
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// Name, file and CRC-32 of the pixels that Pillow 13.0 gives: tests/reference/jpegs.py.
    pub const SAMPLES: [(&str, &[u8], u32); 7] = [
        ("full", include_bytes!("../../tests/reference/full.jpg"), 0xc382_20fd),
        ("halved", include_bytes!("../../tests/reference/halved.jpg"), 0x78cb_030c),
        ("quartered", include_bytes!("../../tests/reference/quartered.jpg"), 0x3a04_fe67),
        ("restarts", include_bytes!("../../tests/reference/restarts.jpg"), 0x3a04_fe67),
        ("progressive", include_bytes!("../../tests/reference/progressive.jpg"), 0x3a04_fe67),
        ("grey", include_bytes!("../../tests/reference/grey.jpg"), 0xdaba_4b8b),
        ("cmyk", include_bytes!("../../tests/reference/cmyk.jpg"), 0x08a1_dd37),
    ];
    const SIZE: (usize, usize) = (93, 131);

    fn read(bytes: &[u8]) -> Result<Vec<u8>, String> {
        let jpeg = Jpeg::open(bytes)?;
        assert_eq!(jpeg.size, SIZE);
        let mut pixels = vec![0; 3 * SIZE.0 * SIZE.1];
        jpeg.read(&mut pixels).map(|()| pixels)
    }

    #[test]
    fn pixels_are_pillows_to_the_last_bit() {
        for (name, bytes, expected) in SAMPLES {
            assert_eq!(crc32fast::hash(&read(bytes).unwrap()), expected, "{name}");
        }
    }

    /// Rectangles all over the image: at and beside its borders and those of blocks, narrow and wide.
    fn parts() -> impl Iterator<Item = Rectangle> {
        let lines = |side: usize| {
            let ends = [0, 1, 2, 7, 8, 15, 16, 17, 31, 33, 48, 62, 80, side - 1, side];
            ends.into_iter()
                .flat_map(move |from| ends.into_iter().map(move |to| (from, to)))
                .filter(|(from, to)| from < to)
        };
        let mut columns = lines(SIZE.1).collect::<Vec<_>>().into_iter().cycle();
        lines(SIZE.0).flat_map(move |(top, bottom)| {
            let columns: Vec<_> = columns.by_ref().take(4).collect();
            columns.into_iter().map(move |(left, right)| Rectangle {
                top,
                left,
                height: bottom - top,
                width: right - left,
            })
        })
    }

    #[test]
    fn a_region_has_the_pixels_of_the_whole_image() {
        for (name, bytes, _) in SAMPLES {
            let whole = read(bytes).unwrap();
            for part in parts() {
                let region = Jpeg::open(bytes).unwrap().read_region(part, 1).unwrap();
                let from = (part.top - region.from.0, part.left - region.from.1);
                assert!(
                    from.0 + part.height <= region.size.0 && from.1 + part.width <= region.size.1,
                    "{name} {part:?}"
                );
                for (row, column) in (0..part.height).flat_map(|row| (0..part.width).map(move |column| (row, column))) {
                    let found = &region.pixels[4 * ((from.0 + row) * region.size.1 + from.1 + column)..][..3];
                    let expected = &whole[3 * ((part.top + row) * SIZE.1 + part.left + column)..][..3];
                    assert_eq!(found, expected, "{name} {part:?}: {row} {column}");
                }
            }
        }
    }

    #[test]
    fn regions_reduced_have_the_parts_size_divided_and_rounded_up() {
        for (name, bytes, _) in SAMPLES {
            for (part, reduction) in parts().flat_map(|part| [2, 4, 8].map(|reduction| (part, reduction))) {
                let region = Jpeg::open(bytes).unwrap().read_region(part, reduction).unwrap();
                let bottom = (part.top + part.height).div_ceil(reduction);
                let right = (part.left + part.width).div_ceil(reduction);
                assert_eq!(
                    (region.from.0, region.from.0 + region.size.0),
                    (part.top / reduction, bottom),
                    "{name} {part:?}"
                );
                assert!(
                    region.from.1 <= part.left / reduction && region.from.1 + region.size.1 >= right,
                    "{name} {part:?}"
                );
            }
        }
    }

    #[test]
    fn bytes_after_the_last_block_change_nothing_and_others_between_markers_are_an_error() {
        for (name, bytes, expected) in SAMPLES {
            let with_more = |at: usize| [&bytes[..at], &[0, 0], &bytes[at..]].concat();
            let pixels = read(&with_more(bytes.len() - 2)).unwrap();
            assert_eq!(crc32fast::hash(&pixels), expected, "{name}");
            let scan = bytes.windows(2).position(|pair| pair == [0xFF, 0xDA]).unwrap();
            assert!(read(&with_more(scan)).unwrap_err().contains("extraneous bytes"), "{name}");
        }
    }

    #[test]
    fn damage_is_an_error_and_never_grey() {
        for (name, bytes, _) in SAMPLES {
            // the last scan, and the end as it should be
            let scan = bytes.windows(2).rposition(|pair| pair == [0xFF, 0xDA]).unwrap();
            for length in (scan + 20..bytes.len() - 12).step_by(41) {
                let cut = [&bytes[..length], &[0xFF, 0xD9]].concat();
                let why = read(&cut).unwrap_err();
                assert!(why.contains("orrupt"), "{name} {length}: {why}");
                let bottom = Rectangle { top: SIZE.0 - 1, left: 0, height: 1, width: 1 };
                assert!(Jpeg::open(&cut).unwrap().read_region(bottom, 1).is_err(), "{name} {length}");
            }
        }
    }
}
