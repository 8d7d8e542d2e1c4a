// net/http as most Go services use it, with the handler of the program that reborn replaces, without its sleep and
// without its log lines, which would only cost it time. On SIGINT it restarts itself as that program did: it starts
// its successor with the listening socket as fd 3, shuts down gracefully, and, as that program did, never exits.
package main

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"syscall"
	"time"
)

var (
	inherited = flag.Bool("g", false, "serve on fd 3")
	address   = flag.String("listen", "127.0.0.1:8080", "where to serve")
	body      = bytes.Repeat([]byte("x"), 1<<20)
	pid       = strconv.Itoa(os.Getpid())
)

func fixed(size int) http.HandlerFunc {
	length := strconv.Itoa(size)
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/plain")
		w.Header().Set("Content-Length", length)
		w.Write(body[:size])
	}
}

func cout(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/plain")
	fmt.Fprintln(w, "cout")
}

func fast(w http.ResponseWriter, r *http.Request) {
	id := r.Header.Get("X-Id")
	w.Header().Set("Content-Type", "text/plain")
	w.Header().Set("X-Id", id)
	w.Header().Set("X-Pid", pid)
	fmt.Fprintf(w, "id=%s pid=%s\n", id, pid)
}

// An event stream without an end, as answer.rs describes it.
func events(w http.ResponseWriter, r *http.Request) {
	every, err := strconv.Atoi(r.URL.Query().Get("ms"))
	if err != nil {
		every = 1000
	}
	w.Header().Set("Content-Type", "text/event-stream")
	ticker := time.NewTicker(time.Duration(every) * time.Millisecond)
	defer ticker.Stop()
	for id := 1; ; id++ {
		select {
		case <-r.Context().Done():
			return
		case <-ticker.C:
		}
		fmt.Fprintf(w, "id: %d\ndata: generation=0 pid=%s\n\n", id, pid)
		w.(http.Flusher).Flush()
	}
}

func restart(listener net.Listener, server *http.Server) error {
	socket, err := listener.(*net.TCPListener).File()
	if err != nil {
		return err
	}
	successor := exec.Command(os.Args[0], append([]string{"-g"}, os.Args[1:]...)...)
	successor.ExtraFiles = []*os.File{socket}
	successor.Stdout, successor.Stderr = os.Stdout, os.Stderr
	if err := successor.Start(); err != nil {
		return err
	}
	deadline, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	return server.Shutdown(deadline)
}

func main() {
	flag.Parse()
	var listener net.Listener
	var err error
	if *inherited {
		listener, err = net.FileListener(os.NewFile(3, ""))
	} else {
		listener, err = net.Listen("tcp", *address)
	}
	if err != nil {
		log.Fatal(err)
	}
	paths := http.NewServeMux()
	paths.HandleFunc("/", cout)
	paths.HandleFunc("/fast", fast)
	paths.HandleFunc("/events", events)
	paths.HandleFunc("/1k", fixed(1<<10))
	paths.HandleFunc("/100k", fixed(100<<10))
	paths.HandleFunc("/1m", fixed(1<<20))
	paths.HandleFunc("/8m", fixed(8<<20))
	server := &http.Server{Handler: paths}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGINT)
	go server.Serve(listener)
	<-signals
	if err := restart(listener, server); err != nil {
		log.Print(err)
	}
	select {}
}
