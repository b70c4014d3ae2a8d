// Browsers do not start workers from files, so a page opened from disk would have no search. This
// runs the same script in a hidden frame instead. Served pages use the browser's workers.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super()
      this.frame = new Promise((ready) => {
        const frame = document.createElement("iframe")
        frame.hidden = true
        frame.srcdoc = "<!doctype html><title>Search</title>"
        frame.addEventListener("load", () => {
          const inner = frame.contentWindow
          const load = (src) =>
            new Promise((done) => {
              const script = inner.document.createElement("script")
              script.src = src
              script.addEventListener("load", done)
              inner.document.head.append(script)
            })
          inner.importScripts = (...urls) =>
            urls.reduce((before, src) => before.then(() => load(src)), Promise.resolve())
          inner.postMessage = (data) => this.dispatchEvent(new MessageEvent("message", { data }))
          load(url).then(() => ready(inner))
        })
        document.body.append(frame)
      })
    }

    postMessage(data) {
      this.frame.then((inner) => inner.dispatchEvent(new MessageEvent("message", { data })))
    }
  }
}
