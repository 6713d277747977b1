//! The outputs over a real directory.

use super::*;
use crate::domain::{Phase, TaskKey};
use futures_util::{StreamExt, stream};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

const STREAM: OutputStream = OutputStream::Stdout;

fn attempt() -> AttemptKey {
    TaskKey { project: ProjectId(7), phase: Phase::Task, index: 12 }.attempt(2)
}

fn open() -> (TempDir, Outputs) {
    let dir = tempfile::tempdir().unwrap();
    let outputs = Outputs::open(&dir.path().join("output")).unwrap();
    (dir, outputs)
}

fn reopen(dir: &TempDir) -> Outputs {
    Outputs::open(&dir.path().join("output")).unwrap()
}

/// Bytes of which no two places look alike.
fn pattern(length: usize) -> Bytes {
    (0..length.div_ceil(4)).flat_map(|place| (place as u32).to_be_bytes()).take(length).collect()
}

fn digest(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

async fn write_all(upload: &mut Upload, bytes: &Bytes, from: u64) {
    let mut offset = from;
    for chunk in bytes.slice(from as usize..).chunks(100_000) {
        let durable = upload.write(offset, bytes.slice_ref(chunk)).await.unwrap();
        offset += chunk.len() as u64;
        assert_eq!(
            durable.is_some(),
            offset / SEGMENT_BYTES as u64 != (offset - chunk.len() as u64) / SEGMENT_BYTES as u64
        );
        assert_eq!(upload.durable_offset(), offset - offset % SEGMENT_BYTES as u64);
    }
}

async fn collect(mut stream: Bytestream) -> Result<Vec<u8>, OutputError> {
    let mut all = Vec::new();
    while let Some(bytes) = stream.try_next().await? {
        assert!(!bytes.is_empty() && bytes.len() <= CHUNK_BYTES_MAX);
        all.extend_from_slice(&bytes);
    }
    Ok(all)
}

/// Every object and left-over below the directory.
fn files(dir: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push(path.file_name().unwrap().to_string_lossy().into_owned());
        }
    }
    found.sort();
    found
}

#[tokio::test]
async fn what_was_uploaded_is_read_back_from_any_offset() {
    for length in [0, 1, SEGMENT_BYTES - 1, SEGMENT_BYTES, SEGMENT_BYTES + 1, 2 * SEGMENT_BYTES + 12_345] {
        let (dir, outputs) = open();
        let bytes = pattern(length);
        let mut upload = outputs.upload(attempt(), STREAM).await.unwrap();
        write_all(&mut upload, &bytes, 0).await;
        assert_eq!(outputs.stored(attempt(), STREAM).await.unwrap(), None);
        assert!(matches!(outputs.read(attempt(), STREAM, 0).await, Err(OutputError::Missing)));
        let stored = upload.finish().await.unwrap();
        assert_eq!(stored, Stored { length: length as u64, sha256: digest(&bytes) });

        let outputs = reopen(&dir);
        assert_eq!(outputs.stored(attempt(), STREAM).await.unwrap(), Some(stored));
        assert_eq!(outputs.stored(attempt(), OutputStream::Stderr).await.unwrap(), None);
        for offset in [0, 1, length / 2, length.saturating_sub(1), length, length + 1] {
            let read = collect(outputs.read(attempt(), STREAM, offset as u64).await.unwrap()).await.unwrap();
            assert_eq!(read, bytes[offset.min(length)..], "{length} from {offset}");
        }
    }
}

#[tokio::test]
async fn an_upload_goes_on_after_a_restart_where_the_last_full_segment_ends() {
    let (dir, outputs) = open();
    let bytes = pattern(3 * SEGMENT_BYTES + 5);
    let mut upload = outputs.upload(attempt(), STREAM).await.unwrap();
    write_all(&mut upload, &bytes.slice(..2 * SEGMENT_BYTES + 99), 0).await;
    drop((upload, outputs));

    // A last segment without a marker, and half a write.
    let output = dir.path().join("output/attempts/7/task/12.2.stdout");
    std::fs::write(output.join("00000002"), b"too short").unwrap();
    std::fs::write(output.join("00000003#1"), b"half").unwrap();

    let outputs = reopen(&dir);
    let mut upload = outputs.upload(attempt(), STREAM).await.unwrap();
    assert_eq!(upload.durable_offset(), 2 * SEGMENT_BYTES as u64);
    assert_eq!(upload.complete(), None);
    let gap = upload.write(0, bytes.slice(..9)).await;
    assert!(
        matches!(gap, Err(OutputError::Gap { expected, got: 0 }) if expected == 2 * SEGMENT_BYTES as u64)
    );
    write_all(&mut upload, &bytes, 2 * SEGMENT_BYTES as u64).await;
    assert_eq!(upload.finish().await.unwrap().sha256, digest(&bytes));
    assert_eq!(collect(outputs.read(attempt(), STREAM, 0).await.unwrap()).await.unwrap(), bytes);
    assert_eq!(files(dir.path()), ["00000000", "00000001", "00000002", "00000003", "complete"]);

    // Once complete, there is nothing to add.
    let mut upload = outputs.upload(attempt(), STREAM).await.unwrap();
    assert_eq!(upload.durable_offset(), bytes.len() as u64);
    assert_eq!(upload.complete().unwrap().sha256, digest(&bytes));
    assert!(upload.write(bytes.len() as u64, pattern(1)).await.is_err());
    assert_eq!(upload.finish().await.unwrap().length, bytes.len() as u64);
}

#[tokio::test]
async fn a_newer_upload_replaces_the_older() {
    let (_dir, outputs) = open();
    let bytes = pattern(SEGMENT_BYTES + 9);
    let mut older = outputs.upload(attempt(), STREAM).await.unwrap();
    older.write(0, bytes.slice(..10)).await.unwrap();
    let mut newer = outputs.upload(attempt(), STREAM).await.unwrap();
    assert_eq!(newer.durable_offset(), 0);
    assert!(matches!(older.write(10, bytes.slice(10..20)).await, Err(OutputError::Replaced)));
    assert!(matches!(older.finish().await, Err(OutputError::Replaced)));
    write_all(&mut newer, &bytes, 0).await;
    newer.finish().await.unwrap();
    assert_eq!(collect(outputs.read(attempt(), STREAM, 0).await.unwrap()).await.unwrap(), bytes);
}

#[tokio::test]
async fn a_follower_sees_every_byte_through_interruptions_and_then_the_end() {
    let (_dir, outputs) = open();
    let bytes = pattern(2 * SEGMENT_BYTES + 777);
    let follow = |offset| tokio::spawn(collect(outputs.follow(attempt(), STREAM, offset)));
    let early = follow(0);
    let mut tail = outputs.follow(attempt(), STREAM, 3);

    let mut upload = outputs.upload(attempt(), STREAM).await.unwrap();
    upload.write(0, bytes.slice(..10)).await.unwrap();
    assert_eq!(tail.next().await.unwrap().unwrap(), bytes.slice(3..10), "long before it is durable");
    write_all_from(&mut upload, &bytes.slice(..SEGMENT_BYTES + 100), 10).await;
    let middle = follow(SEGMENT_BYTES as u64 + 50);
    drop(upload);

    let mut upload = outputs.upload(attempt(), STREAM).await.unwrap();
    write_all(&mut upload, &bytes, SEGMENT_BYTES as u64).await;
    let late = follow(1);
    upload.finish().await.unwrap();
    let after = follow(2);
    let behind = follow(bytes.len() as u64 + 1);
    assert!(early.await.unwrap().unwrap() == bytes);
    assert!(middle.await.unwrap().unwrap() == bytes[SEGMENT_BYTES + 50..]);
    assert!(late.await.unwrap().unwrap() == bytes[1..]);
    assert!(after.await.unwrap().unwrap() == bytes[2..]);
    assert!(behind.await.unwrap().unwrap().is_empty());
    assert!(collect(tail).await.unwrap() == bytes[10..]);
}

async fn write_all_from(upload: &mut Upload, bytes: &Bytes, from: u64) {
    upload.write(from, bytes.slice(from as usize..)).await.unwrap();
}

#[tokio::test]
async fn a_follower_finds_what_an_earlier_process_has_stored() {
    let (dir, outputs) = open();
    let bytes = pattern(SEGMENT_BYTES + 1);
    let mut upload = outputs.upload(attempt(), STREAM).await.unwrap();
    write_all(&mut upload, &bytes, 0).await;
    drop(upload);

    let outputs = reopen(&dir);
    let mut follower = outputs.follow(attempt(), STREAM, 0);
    let mut seen = 0;
    while seen < SEGMENT_BYTES {
        seen += follower.next().await.unwrap().unwrap().len();
    }
    let mut upload = outputs.upload(attempt(), STREAM).await.unwrap();
    write_all(&mut upload, &bytes, SEGMENT_BYTES as u64).await;
    upload.finish().await.unwrap();
    assert_eq!(collect(follower).await.unwrap(), bytes[SEGMENT_BYTES..]);

    let outputs = reopen(&dir);
    assert!(collect(outputs.follow(attempt(), STREAM, 0)).await.unwrap() == bytes);
}

#[tokio::test]
async fn nothing_is_taken_for_complete_when_the_disk_is_full() {
    let (_dir, mut outputs) = open();
    let bytes = pattern(SEGMENT_BYTES);
    let mut upload = outputs.upload(attempt(), STREAM).await.unwrap();
    upload.write(0, bytes.slice(..5)).await.unwrap();
    upload.objects.set_reserve(u64::MAX);
    let full = upload.write(5, bytes.slice(5..)).await;
    assert!(matches!(full, Err(OutputError::Full)), "{full:?}");
    assert!(upload.finish().await.is_err(), "it has to begin again");
    assert_eq!(outputs.stored(attempt(), STREAM).await.unwrap(), None);

    // There is room again.
    let mut upload = outputs.upload(attempt(), STREAM).await.unwrap();
    assert_eq!(upload.durable_offset(), 0);
    write_all(&mut upload, &bytes, 0).await;
    upload.objects.set_reserve(u64::MAX);
    assert!(matches!(upload.finish().await, Err(OutputError::Full)));
    assert_eq!(outputs.stored(attempt(), STREAM).await.unwrap(), None);

    outputs.objects.set_reserve(u64::MAX);
    assert!(matches!(outputs.upload_blob(digest(&bytes)).await, Err(OutputError::Full)));
}

#[tokio::test]
async fn a_removed_attempt_leaves_nothing_and_its_upload_is_over() {
    let (dir, outputs) = open();
    outputs.remove_attempt(attempt()).await.unwrap();
    let bytes = pattern(SEGMENT_BYTES + 1);
    let mut done = outputs.upload(attempt(), STREAM).await.unwrap();
    write_all(&mut done, &bytes, 0).await;
    done.finish().await.unwrap();
    let mut other = outputs.upload(attempt(), OutputStream::Stderr).await.unwrap();
    write_all(&mut other, &bytes, 0).await;
    outputs.remove_attempt(attempt()).await.unwrap();
    assert!(matches!(other.finish().await, Err(OutputError::Replaced)));
    assert_eq!(files(dir.path()), [""; 0]);
    assert!(matches!(outputs.read(attempt(), STREAM, 0).await, Err(OutputError::Missing)));
    assert_eq!(outputs.upload(attempt(), STREAM).await.unwrap().durable_offset(), 0);
}

#[tokio::test]
async fn a_missing_segment_is_an_error_and_no_short_output() {
    let (dir, outputs) = open();
    let mut upload = outputs.upload(attempt(), STREAM).await.unwrap();
    write_all(&mut upload, &pattern(SEGMENT_BYTES + 1), 0).await;
    upload.finish().await.unwrap();
    std::fs::write(dir.path().join("output/attempts/7/task/12.2.stdout/00000001"), b"").unwrap();
    let read = collect(outputs.read(attempt(), STREAM, 0).await.unwrap()).await;
    assert!(matches!(read, Err(OutputError::Damaged(_))), "{read:?}");
}

#[tokio::test]
async fn a_result_is_made_anew_each_time() {
    let (_dir, outputs) = open();
    let (project, generation) = (ProjectId(3), Generation::FIRST);
    for length in [SEGMENT_BYTES + 3, 5] {
        let bytes = pattern(length);
        let mut upload = outputs.upload_result(project, generation).await.unwrap();
        assert_eq!((upload.durable_offset(), upload.complete()), (0, None));
        write_all(&mut upload, &bytes, 0).await;
        upload.finish().await.unwrap();
        assert_eq!(
            collect(outputs.read_result(project, generation, 2).await.unwrap()).await.unwrap(),
            bytes[2..]
        );
    }
}

#[tokio::test]
async fn files_are_kept_only_if_they_are_what_they_claim_to_be() {
    let (dir, outputs) = open();
    let bytes = pattern(3_000_001);
    let sha256 = digest(&bytes);
    let source =
        || stream::iter(bytes.chunks(300_000).map(|chunk| Ok(bytes.slice_ref(chunk))).collect::<Vec<_>>());

    assert!(matches!(outputs.put_blob([9; 32], source()).await, Err(OutputError::Digest)));
    assert_eq!(outputs.has_blob([9; 32]).await.unwrap(), None);
    assert!(matches!(outputs.read_blob(sha256).await, Err(OutputError::Missing)));

    let mut dropped = outputs.upload_blob(sha256).await.unwrap();
    dropped.write(bytes.slice(..2_000_000)).await.unwrap();
    drop(dropped);
    assert_eq!(outputs.has_blob(sha256).await.unwrap(), None);

    // The second time changes nothing.
    for _ in 0..2 {
        assert_eq!(outputs.put_blob(sha256, source()).await.unwrap(), bytes.len() as u64);
        assert_eq!(outputs.has_blob(sha256).await.unwrap(), Some(bytes.len() as u64));
        assert!(collect(outputs.read_blob(sha256).await.unwrap()).await.unwrap() == bytes);
    }
    assert_eq!(outputs.put_blob(digest(b""), stream::empty()).await.unwrap(), 0);

    // What a crash has left goes away with the next start.
    let shard = format!("output/blobs/{:02x}", sha256[0]);
    std::fs::write(dir.path().join(shard).join("left#3"), b"half").unwrap();
    reopen(&dir);
    assert!(files(dir.path()).iter().all(|name| !name.contains('#')));
    assert_eq!(files(dir.path()).len(), 2);
}

#[tokio::test]
async fn a_file_that_is_too_long_is_refused() {
    let (_dir, outputs) = open();
    let mut upload = outputs.upload_blob([1; 32]).await.unwrap();
    upload.pretend_length(BLOB_BYTES_MAX - 2);
    upload.write(pattern(2)).await.unwrap();
    assert!(matches!(upload.write(pattern(1)).await, Err(OutputError::TooLong)));
}
