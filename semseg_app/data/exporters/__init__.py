"""Class maps -> the files that annotation tools import, one tool in a file; formats.py has the table.

People correct shapes faster than they draw them. So masks, or a model's predictions, become polygons that are
simplified to a tolerance in pixels, and what a polygon cannot say (a hole) becomes a mask where the tool has masks.
"""
