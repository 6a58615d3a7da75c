"""What the DETR families share. Not a plugin itself: the leading underscore keeps the host's scan away.

settings    queries, denoising, costs and weights; a family's settings derive from them
library     the one door to transformers: import without torchvision, and the sentence when it is missing
matching    Hungarian matching of a stack of layers with one host copy
denoising   noisy copies of the truth as extra queries (Zhang et al. 2022)
criterion   DetrCriterion: class, box and L1 terms of every layer from pairs of queries and objects
two_stage   encoder, choice of queries and decoder of the RT-DETR line, walked over the library's modules
network     initialisation, frozen norms and layer groups
keys        names of published files, turned into the library's
detector    DetrDetector: what a family derives from
"""
