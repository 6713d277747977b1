//! Every file that can be reached, but for the kernel's own file systems.

use crate::Report;
use std::{
    ffi::CString,
    fs::{self, File, Metadata},
    io::Read,
    os::unix::{
        ffi::OsStrExt,
        fs::{FileTypeExt, MetadataExt},
    },
    path::{Path, PathBuf},
    ptr,
};

pub(crate) fn observe(report: &mut Report) {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    for line in mounts.lines() {
        // Without the numbers of mounts and groups of them.
        let fields: Vec<&str> = line.split(' ').collect();
        let Some((own, kind)) = line.split_once(" - ") else { continue };
        let own: Vec<&str> = own.split(' ').skip(3).take(3).collect();
        report.add("mount", own.join(" ").as_bytes(), kind);
        let kind = kind.split(' ').next().unwrap_or_default();
        if !matches!(kind, "proc" | "sysfs" | "cgroup" | "cgroup2" | "devpts") {
            let point = PathBuf::from(fields[4]);
            space(report, &point);
            tree(report, &point);
        }
    }
}

fn space(report: &mut Report, point: &Path) {
    let Ok(path) = CString::new(point.as_os_str().as_bytes()) else { return };
    // SAFETY: numbers only, for which all zeroes are a value; the path is a string.
    let counts = unsafe {
        let mut counts: libc::statfs = std::mem::zeroed();
        libc::statfs(path.as_ptr(), &raw mut counts);
        counts
    };
    // Of a real disk, others use space too.
    if counts.f_type == libc::TMPFS_MAGIC {
        let text = format!(
            "blocks {} free {} files {} free {}",
            counts.f_blocks, counts.f_bfree, counts.f_files, counts.f_ffree
        );
        report.add("space", path.as_bytes(), text);
    }
}

fn tree(report: &mut Report, point: &Path) {
    let Ok(root) = fs::symlink_metadata(point) else { return };
    entry(report, point, &root);
    let mut dirs = vec![point.to_path_buf()];
    while let Some(dir) = dirs.pop() {
        let Ok(entries) = fs::read_dir(&dir) else {
            report.add("closed", dir.as_os_str().as_bytes(), "");
            continue;
        };
        let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        paths.sort();
        for path in paths {
            let Ok(meta) = fs::symlink_metadata(&path) else { continue };
            if meta.dev() == root.dev() {
                entry(report, &path, &meta);
                if meta.is_dir() {
                    dirs.push(path);
                }
            }
        }
    }
}

fn entry(report: &mut Report, path: &Path, meta: &Metadata) {
    let kind = meta.file_type();
    let is_device = kind.is_char_device() || kind.is_block_device();
    let mut text =
        format!("mode {:o} owner {}:{} links {}", meta.mode(), meta.uid(), meta.gid(), meta.nlink());
    text += &format!(" size {} device {:x}", meta.size(), meta.rdev());
    if !is_device {
        text += &format!(" modified {}.{:09}", meta.mtime(), meta.mtime_nsec());
    }
    if kind.is_symlink() {
        text += &format!(" to {:?}", fs::read_link(path).ok());
    }
    if kind.is_file() {
        text += &format!(" contents {}", File::open(path).map_or_else(|error| error.to_string(), digest));
    }
    let name = path.as_os_str().as_bytes();
    report.add("file", name, text);
    if let Ok(path) = CString::new(name) {
        let mut names = vec![0_u8; 64 << 10];
        // SAFETY: a string and a buffer.
        let length = unsafe { libc::llistxattr(path.as_ptr(), names.as_mut_ptr().cast(), names.len()) };
        names.truncate(usize::try_from(length).unwrap_or(0));
        for attribute in names.split_inclusive(|byte| *byte == 0) {
            // SAFETY: two strings; asks for the length only.
            let length =
                unsafe { libc::lgetxattr(path.as_ptr(), attribute.as_ptr().cast(), ptr::null_mut(), 0) };
            report.add("attribute", name, [attribute, length.to_string().as_bytes()].concat());
        }
    }
}

/// FNV-1a of all that is in it: enough to see a difference.
fn digest(mut file: File) -> String {
    let (mut digest, mut buffer) = (0xcbf2_9ce4_8422_2325_u64, vec![0; 64 << 10]);
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return format!("{digest:016x}"),
            Ok(count) => {
                for byte in &buffer[..count] {
                    digest = (digest ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
                }
            }
            Err(error) => return error.to_string(),
        }
    }
}
