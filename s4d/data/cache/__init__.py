"""Decoded frames on disk, ready to crop: written once by `s4d data cache`, mapped into memory by training.

recipe.py says what is stored of a medium, layout.py where it lies, shard.py what a shard's header holds. probe.py and
fill.py do the work in processes, journal.py remembers what is done, write.py runs them; index.py describes the finished
cache, read.py and mapped.py serve its frames, verify.py reads every byte again.
"""
