"""From IR to IR, one pass a file: graph passes, lowering to loops, the laws, layout and memory planning.

Imports `ir` alone. No pass names an operator family: fused kernels are derived by laws, not matched.
"""
