"""Measures of segmentations. Each module says what it needs: `overlap`, `empty` and `intervals` run on a device.

Nothing is imported here: `surface` needs monai, which takes seconds to import.
"""
