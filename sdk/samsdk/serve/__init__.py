"""The service: images and prompts in, masks out, over HTTP; and the page that people click on (extra `serve`).

Nothing here is imported by `import samsdk`; `samsdk serve` imports it when it is called.
"""
