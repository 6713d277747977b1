//! Images, and the files that they are built from.

use super::WireError;
use crate::domain::{ImageFile, ImageSpec};
use piecework_proto::v1;
use std::path::PathBuf;

pub(super) fn image_from_proto(image: Option<v1::ImageSpec>) -> Result<ImageSpec, WireError> {
    match image.and_then(|image| image.image).ok_or(WireError::Missing("image"))? {
        v1::image_spec::Image::Reference(reference) if reference.is_empty() => {
            Err(WireError::Missing("image.reference"))
        }
        v1::image_spec::Image::Reference(reference) => Ok(ImageSpec::Reference(reference)),
        v1::image_spec::Image::Build(build) => {
            if build.from.is_empty() {
                return Err(WireError::Missing("image.build.from"));
            }
            let files = build.files.into_iter().map(file_from_proto).collect::<Result<_, _>>()?;
            Ok(ImageSpec::Build { from: build.from, files, run: build.run })
        }
    }
}

fn file_from_proto(file: v1::ImageFile) -> Result<ImageFile, WireError> {
    Ok(ImageFile {
        sha256: digest_from_proto("image.build.files.sha256", &file.sha256)?,
        path: path_from_proto(file.path)?,
        mode: file.mode & 0o7777,
        length: file.length,
    })
}

/// The text itself is checked: the components that `Path` shows have lost empty and `.` parts already.
fn path_from_proto(path: String) -> Result<PathBuf, WireError> {
    let parts_are_plain =
        |parts: &str| parts.split('/').all(|part| !matches!(part, "" | "." | "..") && !part.contains('\0'));
    if path.strip_prefix('/').is_some_and(parts_are_plain) {
        Ok(path.into())
    } else {
        Err(WireError::ImagePath(path.into()))
    }
}

pub(super) fn digest_from_proto(field: &'static str, bytes: &[u8]) -> Result<[u8; 32], WireError> {
    bytes.try_into().map_err(|_| WireError::DigestLength { field, length: bytes.len() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn build(path: &str, sha256: Vec<u8>) -> Result<ImageSpec, WireError> {
        let file = v1::ImageFile { path: path.into(), sha256, mode: 0o755, length: 3 };
        let build = v1::ImageBuild { from: "scratch".into(), files: vec![file], run: vec!["true".into()] };
        image_from_proto(Some(v1::ImageSpec { image: Some(v1::image_spec::Image::Build(build)) }))
    }

    #[test]
    fn a_build_is_read() {
        let file = ImageFile { path: "/bin/queens".into(), sha256: [7; 32], mode: 0o755, length: 3 };
        assert_eq!(
            build("/bin/queens", vec![7; 32]),
            Ok(ImageSpec::Build { from: "scratch".into(), files: vec![file], run: vec!["true".into()] })
        );
    }

    #[test]
    fn paths_that_lead_elsewhere_are_refused() {
        for path in ["", "/", "bin/queens", "/bin/", "//bin", "/a//b", "/a/../b", "/..", "/a/./b", "/a\0b"] {
            assert_eq!(build(path, vec![7; 32]), Err(WireError::ImagePath(path.into())), "{path:?}");
        }
    }

    #[test]
    fn digests_have_32_bytes() {
        let field = "image.build.files.sha256";
        assert_eq!(build("/a", vec![7; 31]), Err(WireError::DigestLength { field, length: 31 }));
    }

    #[test]
    fn an_image_must_be_named() {
        assert_eq!(image_from_proto(None), Err(WireError::Missing("image")));
        assert_eq!(image_from_proto(Some(v1::ImageSpec { image: None })), Err(WireError::Missing("image")));
    }
}
