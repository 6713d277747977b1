//! Files of images: fetched once, verified, kept within a bound.

use crate::coordinator::Coordinator;
use piecework_agent::{
    runtime::{Blobs, ImageError},
    session::{self, BlobCache},
};
use piecework_proto::address::Address;
use sha2::{Digest, Sha256};
use std::{
    fs::{self, File},
    time::{Duration, SystemTime},
};
use tempfile::TempDir;

struct Bench {
    coordinator: Coordinator,
    cache: BlobCache,
    dir: TempDir,
}

fn bench(bytes_max: u64) -> Bench {
    let dir = tempfile::tempdir().expect("a directory");
    let coordinator = Coordinator::start(dir.path());
    let client = session::Coordinator::new(Address::Socket(coordinator.socket.clone()), || None).bulk();
    let cache = BlobCache::open(client, dir.path().join("blobs"), bytes_max).expect("opens");
    Bench { coordinator, cache, dir }
}

impl Bench {
    /// The coordinator has this; returns its digest.
    fn put(&self, bytes: &[u8]) -> [u8; 32] {
        let sha256: [u8; 32] = Sha256::digest(bytes).into();
        self.coordinator.bulk().blobs.insert(sha256.to_vec(), bytes.to_vec());
        sha256
    }

    fn calls(&self) -> usize {
        self.coordinator.bulk().calls.get("ReadBlob").copied().unwrap_or_default()
    }

    fn files(&self) -> usize {
        fs::read_dir(self.dir.path().join("blobs")).expect("lists").count()
    }

    async fn check(&self, sha256: &[u8; 32], expected: &[u8]) {
        let path = self.cache.fetch(sha256).await.expect("fetches");
        assert!(fs::read(path).expect("reads") == expected, "the bytes are the same");
    }
}

#[tokio::test]
async fn a_file_is_fetched_once_over_breaks() {
    let bench = bench(u64::MAX);
    let bytes = vec![7; 1_000_000];
    let sha256 = bench.put(&bytes);
    bench.coordinator.bulk().breaks = vec![300_000, 0];
    tokio::join!(bench.check(&sha256, &bytes), bench.check(&sha256, &bytes));
    assert_eq!(bench.calls(), 3, "two broke");
    bench.check(&sha256, &bytes).await;
    assert_eq!(bench.calls(), 3);
}

#[tokio::test]
async fn a_file_that_was_changed_here_is_fetched_again() {
    let bench = bench(u64::MAX);
    let sha256 = bench.put(b"the program");
    let path = bench.cache.fetch(&sha256).await.expect("fetches");
    fs::write(path, "another one").expect("writes");
    bench.check(&sha256, b"the program").await;
    assert_eq!(bench.calls(), 2);
}

#[tokio::test]
async fn what_is_not_what_was_asked_for_is_not_kept() {
    let bench = bench(u64::MAX);
    let sha256 = [9; 32];
    let error = bench.cache.fetch(&sha256).await.expect_err("there is none");
    assert!(matches!(&error, ImageError::Unavailable(why) if why.contains("no such file")), "{error:?}");
    bench.coordinator.bulk().blobs.insert(sha256.to_vec(), b"something else".to_vec());
    let error = bench.cache.fetch(&sha256).await.expect_err("it is another");
    assert!(matches!(&error, ImageError::Unavailable(why) if why.contains("digest")), "{error:?}");
    assert!(!bench.dir.path().join("blobs").join("09".repeat(32)).exists());
}

#[tokio::test]
async fn what_was_not_used_for_longest_goes_first() {
    let bench = bench(25);
    let old = bench.put(b"old: 10 by");
    let new = bench.put(b"new: 10 by");
    let path = bench.cache.fetch(&old).await.expect("fetches");
    let long_ago = SystemTime::now() - Duration::from_secs(100_000);
    File::options().write(true).open(&path).and_then(|file| file.set_modified(long_ago)).expect("ages it");
    bench.cache.fetch(&new).await.expect("fetches");
    assert_eq!(bench.files(), 2, "they fit");
    let third = bench.put(b"third: more than its share");
    bench.check(&third, b"third: more than its share").await;
    assert!(!path.exists());
    assert_eq!(bench.files(), 2, "what is in use stays, whatever the bound");
}
