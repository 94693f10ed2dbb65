"""Calibration set, observers, scales, Q/DQ placement, sensitivity, accuracy gate."""
