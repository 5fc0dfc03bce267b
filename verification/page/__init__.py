"""The report as files that people read: `verify.py --report out/` writes report.html, report.md and report.json.

    files       are the folder and the packages fit (before the long work), and all three files written (after it)
    facts       what a page says, worked out of a Report: verdict, caveats, levels, problems, answers
    thumbnails  pictures, small and without the camera's notes
    charts      error histograms and KL over positions, as places on a drawing
    timing      the seconds of each stage against what the roofline allows
    text        characters that show, home folders that do not
    html        facts into templates/report.html.j2: one file, no script, no request to anywhere
    markdown    the same facts as tables, fit for an issue

Nothing here computes with torch. Jinja2 (html) and Pillow (thumbnails) are imported only when a page is written.
"""
