"""Does the method do what it claims? A small world whose truth is known, and runs in it.

`scenes`      drawn scenes: coloured shapes on a grid
`sentences`   templated sentences of five kinds, true or false of a scene, and the parser that tells
`models`      a small LLaVA and a small CLIP, of the real classes
`teach`       teaches both: the starting point of one seed
"""
