// Views, how long they lasted, clicks and what pushcart() is told, to POST events beside this file. No cookies.
// <script src="https://.../pushcart.js" data-key="" data-user="" data-visitor="" data-platform="web" defer></script>
// <main data-pushcart-view="ITEM">  <ul data-pushcart-request="ID"><li data-pushcart-item="ITEM">  pushcart("cart", "ITEM", {quantity: 1})
(() => {
  const script = document.currentScript, { key, user, visitor, platform } = script.dataset
  const url = new URL("events", script.src)
  if (key) url.searchParams.set("key", key)
  const id = () => crypto.getRandomValues(new Uint32Array(4)).join("-")
  const stored = (name, value) => {
    try {
      return value ? (sessionStorage["pushcart." + name] = value) : sessionStorage["pushcart." + name]
    } catch {
      return value
    }
  }
  const who = { user_id: user, visitor_id: visitor || (user ? undefined : stored("visitor") || stored("visitor", id())) }
  let waiting = JSON.parse(stored("waiting") || "[]"), busy, view
  const keep = () => stored("waiting", JSON.stringify(waiting.slice(-1000)))
  const body = () => JSON.stringify({ events: waiting.slice(0, 50).map(([at, event]) => ({ ...event, ago: Math.max(0, Date.now() - at) / 1e3 })) })
  const send = async () => {
    if (busy || !waiting.length) return
    busy = true
    const sent = waiting.slice(0, 50)
    let wait = 3000
    try {
      const { status } = await fetch(url, { method: "POST", body: body(), keepalive: true })
      if (status < 500 && status !== 429) {
        waiting = waiting.filter((one) => !sent.includes(one))
        keep()
        wait = 0
      }
    } catch {}
    busy = false
    if (waiting.length) setTimeout(send, wait)
  }
  const push = (event, item_id, more) => {
    const event_id = id()
    waiting.push([Date.now(), { event_id, event, item_id, platform, ...who, ...more }])
    keep()
    send()
    return event_id
  }
  const pause = () => document.hidden || (view.looked += Date.now() - view.since)
  const end = () => {
    if (!view) return
    pause()
    push("look", view.item, { of: view.of, duration: view.looked / 1e3 })
    view = null
  }
  window.pushcart = (event, item, more) => {
    if (event === "view") end()
    const of = push(event, item, more)
    if (event === "view") view = { of, item, looked: 0, since: Date.now() }
  }
  document.addEventListener("click", ({ target }) => {
    const item = target.closest("[data-pushcart-item]")?.dataset.pushcartItem
    if (item) push("click", item, { request_id: target.closest("[data-pushcart-request]")?.dataset.pushcartRequest })
  })
  document.addEventListener("visibilitychange", () => {
    if (view && document.hidden) view.looked += Date.now() - view.since
    if (view) view.since = Date.now()
  })
  addEventListener("pagehide", () => {
    end()
    if (waiting.length) navigator.sendBeacon(url, body())
  })
  addEventListener("online", send)
  const first = document.querySelector("[data-pushcart-view]")
  if (first) pushcart("view", first.dataset.pushcartView)
  send()
})()
