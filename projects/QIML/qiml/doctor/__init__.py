"""The data doctor (`tools/check_dataset.py`): finds what is wrong with data before hours of training."""
