"""The command `treadle`: run, explain, doctor, cache."""
