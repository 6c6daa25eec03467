"""The engines that run in Python: one module each, with `run(doc)`; what they share lies beside them."""
