"""Measures of what de-identification costs and gains; nothing here is needed to de-identify."""
