"""Does the method do what it claims? A small world whose truth is known, and runs in it.

`scenes`      drawn scenes: coloured shapes on a grid
`sentences`   templated sentences of five kinds, true or false of a scene, and the parser that tells
`models`      a small LLaVA and a small CLIP, of the real classes
`teach`       teaches both: the starting point of one seed
`answers`     what the small LLaVA says of a picture, and the log-probs of given answers
`pairs`       preference pairs of a taught world: own answers, written ones, ranked ones
`weights`     what the method's weights tell of truth before training
`train`       preference training by the methods compared, without a host
`measure`     false sentences, coverage, length and entropy on scenes that no training has seen
`runs`        the study's runs, each a line of runs.jsonl
`check`       `make study-check`: the gain is still there
`report`      docs/study.md, and its `picture`
"""
