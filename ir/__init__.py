"""What programs are made of: three levels (graph, loops, tiles), each printed, parsed, verified and interpreted.

This folder imports nothing else of treadle, and no torch at import time.
"""
