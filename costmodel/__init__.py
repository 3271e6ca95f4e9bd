"""Which schedule is faster: features, roofline and learned models. Imports `ir` alone."""
