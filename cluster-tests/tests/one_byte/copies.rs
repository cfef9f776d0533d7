//! Copies of a stopped node, one after the other at the same addresses, each judged by what it answers.

use anyhow::{Context, Result, ensure};
use mode_envoy_cluster_tests::cluster::Cluster;
use mode_envoy_cluster_tests::one_byte::{Flip, Image, Kind};

use crate::says_what_to_do;
use crate::source::{Answers, Source};

/// What may keep a node from starting. Of the others nothing is needed: they are written or computed anew, or may be missing.
const MAY_REFUSE: [Kind; 6] = [
    Kind::Identity,
    Kind::Secret,
    Kind::Log,
    Kind::Manifest,
    Kind::Chunk,
    Kind::Spool,
];

/// A place where copies run.
pub(crate) struct Copies<'a> {
    source: &'a Source,
    stand: Cluster,
    number: usize,
}

// === impl Copies ===

impl<'a> Copies<'a> {
    pub(crate) fn of(source: &'a Source) -> Result<Self> {
        Ok(Self {
            source,
            stand: source.stand()?,
            number: 0,
        })
    }

    /// Fails where a flip leads to a wrong answer, or to a refusal without a reason.
    pub(crate) async fn judge(&mut self, before: &Answers, flip: &Flip) -> Result<()> {
        if let Some(after) = self.run(&self.source.image, Some(flip)).await? {
            return after.agrees(before, flip.kind == Kind::Calls);
        }
        let said = self.stand.node(1).log();
        ensure!(
            MAY_REFUSE.contains(&flip.kind),
            "it refuses for a file that it can do without: {said}"
        );
        says_what_to_do(&said, flip)
    }

    /// What a copy answers; `None` where it refuses to start.
    pub(crate) async fn run(
        &mut self,
        image: &Image,
        flip: Option<&Flip>,
    ) -> Result<Option<Answers>> {
        self.number += 1;
        let place = self.stand.dir().join(format!("copy-{}", self.number));
        let dir = place.join("data");
        std::fs::create_dir(&place)?;
        image.write(&dir, flip)?;
        let node = self.stand.node_mut(1);
        (node.launch.data_dir, node.launch.log) = (dir, place.join("log"));
        node.start()?;
        if let Err(error) = node.wait_ready().await {
            // It has ended, or it does not come to an end.
            ensure!(!node.is_started(), "{error:#}: {}", node.log());
            return Ok(None);
        }
        let answers = Box::pin(self.source.answers(node)).await;
        let answers = answers.with_context(|| node.log())?;
        let code = node.term().await?;
        ensure!(code == Some(0), "it ended with {code:?}: {}", node.log());
        std::fs::remove_dir_all(&place)?;
        Ok(Some(answers))
    }

    pub(crate) async fn finish(self) -> Result<()> {
        self.stand.finish().await
    }
}
