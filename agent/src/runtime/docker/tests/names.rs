//! Names of images that move while the agent runs.

use super::*;
use bollard::query_parameters::TagImageOptionsBuilder;

/// How long an answer may take to be remembered, in seconds.
const WAIT_SECS: u64 = 20;

#[tokio::test]
async fn a_name_that_moves_or_goes_is_seen_at_once() {
    let Some(bench) = Bench::open().await else { return };
    let inner = &bench.runtime.inner;
    let ImageSpec::Build { from, files, .. } = bench.image.clone() else { panic!("it is built") };
    let other = ImageSpec::Build { from, files, run: Vec::new() };
    let first = bench.runtime.prepare(&bench.image, &bench.files).await.unwrap();
    let second = bench.runtime.prepare(&other, &bench.files).await.unwrap();
    assert_ne!(first.handle, second.handle);

    let repository = format!("piecework-test-{}", bench.agent_id);
    let name = format!("{repository}:moves");
    let tag = async |image: &PreparedImage| {
        let options = TagImageOptionsBuilder::default().repo(&repository).tag("moves").build();
        inner.docker.tag_image(&image.handle, Some(options)).await.unwrap();
    };
    let reference = ImageSpec::Reference(name.clone());
    let prepare = async || bench.runtime.prepare(&reference, &bench.files).await.unwrap();
    tag(&first).await;
    if inner.names.stamp().is_some() {
        // Other tests may be tagging images of theirs all the while.
        let learns = async {
            while inner.names.get(&name).is_none() {
                assert_eq!(prepare().await, first);
                sleep(Duration::from_millis(SETTLE_MILLIS)).await;
            }
        };
        timeout(Duration::from_secs(WAIT_SECS), learns).await.expect("it is remembered");
    }
    tag(&second).await;
    assert_eq!(prepare().await, second);
    tag(&first).await;
    assert_eq!(prepare().await, first);
    inner.docker.remove_image(&name, None::<RemoveImageOptions>, None).await.unwrap();
    assert_eq!(inner.names.get(&name), None);
    bench.close().await;
}
