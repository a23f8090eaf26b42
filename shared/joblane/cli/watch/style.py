"""The layout of `joblane watch`. Its colours are those of the terminal, dark or light."""

CSS = """
Screen {
    layout: vertical;
    overflow: hidden;
}
Static {
    height: auto;
    width: 100%;
    padding: 0 1;
}
#notice, #bulk, #message {
    max-height: 3;
}
#above {
    margin: 0 0 1 0;
}
Grid {
    height: 1fr;
    background: ansi_default;
    scrollbar-size-vertical: 1;
    scrollbar-size-horizontal: 0;
    overflow-x: hidden;
}
Grid > .datatable--header, Grid:ansi > .datatable--header {
    background: ansi_default;
    color: ansi_default;
    text-style: bold;
}
Grid > .datatable--cursor,
Grid:focus > .datatable--cursor,
Choices > .datatable--cursor,
Choices:focus > .datatable--cursor {
    background: ansi_default;
    color: ansi_default;
    text-style: reverse;
}
Grid > .datatable--even-row,
Grid > .datatable--odd-row,
Choices > .datatable--even-row,
Choices > .datatable--odd-row {
    background: ansi_default;
}
#empty {
    height: auto;
}
#detail {
    height: 1fr;
    scrollbar-size-vertical: 1;
    overflow-x: hidden;
}
#filter {
    height: 1;
    width: 100%;
    padding: 0 1;
}
Dialog {
    align: center middle;
}
.box {
    width: 100%;
    max-width: 90;
    height: auto;
    max-height: 100%;
    border: round ansi_default;
    background: ansi_default;
}
.label {
    margin: 1 0 0 0;
}
#problem {
    margin: 1 0;
}
Dialog Input {
    margin: 0 1;
    border: none;
    height: 1;
    text-style: underline;
}
Choices {
    height: auto;
    margin: 1 0;
    background: ansi_default;
}
Input > .input--cursor,
Input:ansi > .input--cursor {
    background: ansi_default;
    color: ansi_default;
    text-style: reverse;
}
"""
