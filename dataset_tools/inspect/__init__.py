"""Looking at a converted dataset: statistics, their chart, a preview page, every invariant checked."""
