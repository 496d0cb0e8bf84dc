"""Packed-sequence kernels: each op has a plain PyTorch definition and faster backends in one table.

Import the op's own package, for example ``from kernels.attention import varlen_attention``; nothing is imported
here, so that a machine without an accelerator never loads an accelerator library.
"""
