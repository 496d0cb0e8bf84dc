"""Decoding by NVIDIA DALI: whole batches of encoded files at a time, by the engines of a GPU or on a CPU.

`files` says what is decoded and cut out, `drafts` makes micro batches without pixels, `decoder` runs DALI's pipelines,
`finish` puts the two together.
"""
