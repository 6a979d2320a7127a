"""Slate and teal, labels as plain text. The fonts come with Gradio: nothing is fetched from outside."""

import os

# Read when Gradio is imported: the page sends nothing to anyone.
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")

import gradio as gr


def theme() -> gr.themes.Base:
    """The look of the page, light and dark."""
    text = gr.themes.LocalFont("IBM Plex Sans", weights=(400, 700))
    soft = gr.themes.Soft(
        primary_hue="teal",
        secondary_hue="teal",
        neutral_hue="slate",
        radius_size="lg",
        font=[text, "system-ui", "sans-serif"],
    )
    return soft.set(
        background_fill_primary="*neutral_50",
        body_text_color_subdued="*neutral_500",
        body_text_color_subdued_dark="*neutral_400",
        block_title_background_fill="none",
        block_title_background_fill_dark="none",
        block_title_text_color="*body_text_color_subdued",
        block_title_text_color_dark="*body_text_color_subdued",
        block_title_padding="0",
        block_label_background_fill="*neutral_100",
        block_label_background_fill_dark="*neutral_800",
        block_label_text_color="*neutral_600",
        block_label_text_color_dark="*neutral_200",
        color_accent="*primary_700",
        link_text_color="*primary_700",
        # White on teal 500, the theme's own, has a contrast of 2.5.
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_dark="*primary_700",
        button_primary_background_fill_hover_dark="*primary_600",
        checkbox_label_background_fill_selected="*primary_700",
        checkbox_label_background_fill_selected_dark="*primary_700",
    )
