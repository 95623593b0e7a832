/* clickwell: sends what people do with results; docs/api.md says how to use it. */
(function () {
  "use strict";
  var data = document.currentScript.dataset, url = new URL(document.currentScript.src).origin + "/v1/retrievers/";
  var queues = { interactions: [], searches: [] }, shown = {}, timer = 0;

  function id() {
    return crypto.randomUUID ? crypto.randomUUID() : Date.now().toString(36) + Math.random().toString(36).slice(2);
  }
  function session() {
    try {
      return sessionStorage.cw || (sessionStorage.cw = id());
    } catch (forbidden) {}
  }
  function later() {
    timer = timer || setTimeout(flush, 1000);
  }
  function flush() {
    clearTimeout(timer);
    timer = 0;
    for (var kind in queues) {
      for (var batch; (batch = queues[kind].splice(0, 50)).length; ) {
        var query = data.key ? "?key=" + encodeURIComponent(data.key) : "";
        if (!navigator.sendBeacon(url + kind + query, JSON.stringify(batch))) {
          queues[kind] = batch.concat(queues[kind]);
          return later();
        }
      }
    }
  }
  function put(kind, event, more) {
    queues[kind].push(Object.assign({ retriever_id: data.retriever, session_id: session(), timestamp: Date.now() }, more, event));
    later();
  }
  function search(event) {
    put("searches", (shown = event));
  }
  function send(event) {
    put("interactions", event, { interaction_id: id(), execution_id: shown.execution_id, metadata: { query: shown.query } });
  }
  addEventListener("pagehide", flush);
  document.addEventListener("click", function (event) {
    var hit = event.target.closest("[data-cw-feature]");
    if (hit) {
      var place = hit.dataset.cwPosition;
      send({ feature_id: hit.dataset.cwFeature, interaction_type: ["click"], position: place ? +place : undefined });
    }
  });
  window.clickwell = { search: search, send: send, flush: flush };
})();
